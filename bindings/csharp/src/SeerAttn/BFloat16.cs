using System;
using System.Globalization;
using System.Runtime.InteropServices;

namespace SeerAttn
{
    /// <summary>The upper half of a <see cref="float"/>: what tensors of type <see cref="SeerDType.BF16"/> are made
    /// of.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public readonly struct BFloat16 : IEquatable<BFloat16>
    {
        /// <summary>The number that these bits stand for.</summary>
        /// <param name="bits">Sign, 8 bits of exponent, 7 of fraction.</param>
        public BFloat16(ushort bits) { Bits = bits; }

        /// <summary>Sign, 8 bits of exponent, 7 of fraction.</summary>
        public ushort Bits { get; }

        /// <summary>The same number.</summary>
        public static implicit operator float(BFloat16 value) => FloatBits.ToSingle((uint)value.Bits << 16);

        /// <summary>The nearest number of this type, ties to even. NaN stays NaN.</summary>
        public static explicit operator BFloat16(float value)
        {
            uint bits = FloatBits.FromSingle(value);
            // Rounding could carry a NaN's fraction over into an infinity or a zero.
            if ((bits & 0x7fffffff) > 0x7f800000) return new BFloat16((ushort)(bits >> 16 | 0x40));
            return new BFloat16((ushort)((bits + 0x7fff + (bits >> 16 & 1)) >> 16));
        }

        /// <summary>Converts all of <paramref name="source"/>.</summary>
        /// <param name="source">Numbers of this type.</param>
        /// <param name="target">At least as many elements.</param>
        public static void ToSingle(ReadOnlySpan<BFloat16> source, Span<float> target)
        {
            FloatBits.CheckLength(source.Length, target.Length, nameof(target));
            for (int i = 0; i < source.Length; i++) target[i] = source[i];
        }

        /// <summary>Converts all of <paramref name="source"/>, to the nearest, ties to even.</summary>
        /// <param name="source">Numbers.</param>
        /// <param name="target">At least as many elements.</param>
        public static void FromSingle(ReadOnlySpan<float> source, Span<BFloat16> target)
        {
            FloatBits.CheckLength(source.Length, target.Length, nameof(target));
            for (int i = 0; i < source.Length; i++) target[i] = (BFloat16)source[i];
        }

        /// <summary>Whether both are the same number: zeros are equal, NaN equals only the same bits.</summary>
        public bool Equals(BFloat16 other) => Bits == other.Bits || (float)this == (float)other;

        /// <inheritdoc/>
        public override bool Equals(object obj) => obj is BFloat16 && Equals((BFloat16)obj);

        /// <inheritdoc/>
        public override int GetHashCode() => (Bits & 0x7fff) == 0 ? 0 : Bits;

        /// <inheritdoc/>
        public override string ToString() => ((float)this).ToString(CultureInfo.InvariantCulture);
    }
}
