using System;
using SeerAttn.Native;

namespace SeerAttn
{
    /// <summary>Rotary position embedding, half-rotation layout. The default value is the model's in prefill and gate,
    /// and none in attention.</summary>
    public struct SeerRope
    {
        /// <summary>Which of the numbers below count.</summary>
        public SeerRopeKind Kind { get; set; }

        /// <summary>The base, e.g. 10000.</summary>
        public double Theta { get; set; }

        /// <summary>A factor on cosine and sine; 0 stands for 1.</summary>
        public double AttentionScaling { get; set; }

        /// <summary>One for each pair of channels: half the head dim.</summary>
        public ReadOnlyMemory<float> InverseFrequencies { get; set; }

        /// <summary>q and k are used as they are.</summary>
        public static SeerRope None => new SeerRope { Kind = SeerRopeKind.None };

        /// <summary>Plain RoPE.</summary>
        /// <param name="theta">The base, e.g. 10000.</param>
        public static SeerRope OfTheta(double theta) => new SeerRope { Kind = SeerRopeKind.Theta, Theta = theta };

        /// <summary>RoPE of any scaling.</summary>
        /// <param name="frequencies">Half the head dim of them; not copied.</param>
        /// <param name="attentionScaling">A factor on cosine and sine.</param>
        public static SeerRope OfInverseFrequencies(ReadOnlyMemory<float> frequencies, double attentionScaling = 1)
        {
            return new SeerRope
            {
                Kind = SeerRopeKind.InverseFrequencies,
                InverseFrequencies = frequencies,
                AttentionScaling = attentionScaling,
            };
        }

        // Copies the frequencies, which belong to the model.
        internal static unsafe SeerRope FromNative(in seer_rope native)
        {
            SeerRope rope = default(SeerRope);
            rope.Kind = native.kind;
            rope.Theta = native.theta;
            rope.AttentionScaling = native.attention_scaling;
            if (native.inv_freq != null)
            {
                var frequencies = new ReadOnlySpan<float>(native.inv_freq, (int)native.inv_freq_count);
                rope.InverseFrequencies = frequencies.ToArray();
            }
            return rope;
        }

        internal unsafe seer_rope ToNative(Call call)
        {
            seer_rope native = default(seer_rope);
            native.kind = Kind;
            native.theta = Theta;
            native.attention_scaling = AttentionScaling;
            if (!InverseFrequencies.IsEmpty)
            {
                native.inv_freq = (float*)call.Pin(InverseFrequencies);
                native.inv_freq_count = (uint)InverseFrequencies.Length;
            }
            return native;
        }
    }
}
