using System;

namespace SeerAttn
{
    /// <summary>What may be said about any call that computes. Options may be reused, and changed once a call has
    /// started.</summary>
    public abstract class SeerCallOptions
    {
        internal SeerCallOptions() { }

        /// <summary>Told of progress, a few times per stage and block row, on a thread of the library: be quick, and
        /// call nothing of this library. An exception cancels the work and comes out of the call.</summary>
        public IProgress<SeerProgress> Progress { get; set; }

        /// <summary>CUDA only: a stream to be used instead of the context's. <see cref="IntPtr.Zero"/> is a real
        /// stream; null is none.</summary>
        public IntPtr? CudaStream { get; set; }
    }

    /// <summary>What calls of the gate have in common.</summary>
    public abstract class SeerGateCallOptions : SeerCallOptions
    {
        internal SeerGateCallOptions() { }

        /// <summary>How blocks are chosen; the model's way if not set.</summary>
        public SeerSelection Select { get; set; }

        /// <summary>Instead of the model's.</summary>
        public SeerRope Rope { get; set; }

        /// <summary>Of a packed batch; null: not packed.</summary>
        public SeerSequences Sequences { get; set; }

        /// <summary>For prompts in chunks: keeps the gate's vectors of key blocks. null: K is pooled whole.</summary>
        public SeerGateCache Cache { get; set; }

        /// <summary>For prompts in chunks: tokens of the whole prompt, which ratio and last dense rows need to know. 0:
        /// the keys given are all there is.</summary>
        public long TotalLength { get; set; }
    }

    /// <summary>Options of a prefill.</summary>
    public sealed class SeerPrefillOptions : SeerGateCallOptions
    {
        /// <summary>Written if given: natural logarithm of the softmax denominators. F32 [B, Hq, S], packed
        /// [Hq, T].</summary>
        public SeerTensor Lse { get; set; }

        /// <summary>Written if given: gate probabilities, or logits with ratio and budget. F32 [B, Hq, nQ,
        /// nK].</summary>
        public SeerTensor Scores { get; set; }

        /// <summary>Written if given: the blocks attended to. B32 [B, Hq, nQ, ceil(nK/32)] or U8 [B, Hq, nQ,
        /// nK].</summary>
        public SeerTensor Mask { get; set; }

        /// <summary>0: 1/sqrt(D).</summary>
        public double SoftmaxScale { get; set; }
    }

    /// <summary>Options of a gate call.</summary>
    public sealed class SeerGateOptions : SeerGateCallOptions
    {
        /// <summary>Scores are logits, whatever the method.</summary>
        public bool Logits { get; set; }
    }

    /// <summary>Options of a select call.</summary>
    public sealed class SeerSelectOptions : SeerCallOptions
    {
        /// <summary>Of a packed batch, in tokens; required with packed scores.</summary>
        public SeerSequences Sequences { get; set; }

        /// <summary>Query tokens; 0: nQ blocks of them. Not used with sequences.</summary>
        public long QueryLength { get; set; }

        /// <summary>Key tokens; 0: nK blocks of them. Not used with sequences.</summary>
        public long KeyLength { get; set; }

        /// <summary>32, 64 or 128; 0 is 64.</summary>
        public int BlockSize { get; set; }

        /// <summary>Tokens of the whole prompt; 0: the keys are all there is.</summary>
        public long TotalLength { get; set; }
    }

    /// <summary>Options of an attention call.</summary>
    public sealed class SeerAttentionOptions : SeerCallOptions
    {
        /// <summary>The blocks to attend to, B32 or U8; null: dense.</summary>
        public SeerReadOnlyTensor Mask { get; set; }

        /// <summary>Written if given: natural logarithm of the softmax denominators. F32 [B, Hq, S].</summary>
        public SeerTensor Lse { get; set; }

        /// <summary>Of a packed batch; null: not packed.</summary>
        public SeerSequences Sequences { get; set; }

        /// <summary>Applied to q and k; none if not set.</summary>
        public SeerRope Rope { get; set; }

        /// <summary>0: 1/sqrt(D).</summary>
        public double SoftmaxScale { get; set; }

        /// <summary>32, 64 or 128; 0 is 64.</summary>
        public int BlockSize { get; set; }
    }
}
