using System;
using System.Globalization;
using System.Runtime.InteropServices;

namespace SeerAttn
{
    /// <summary>An IEEE 754 half: what tensors of type <see cref="SeerDType.F16"/> are made of, on every framework. Has
    /// the layout of <c>System.Half</c>, which such tensors take as well, where it exists.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public readonly struct Float16 : IEquatable<Float16>
    {
        /// <summary>The number that these bits stand for.</summary>
        /// <param name="bits">Sign, 5 bits of exponent, 10 of fraction.</param>
        public Float16(ushort bits) { Bits = bits; }

        /// <summary>Sign, 5 bits of exponent, 10 of fraction.</summary>
        public ushort Bits { get; }

        /// <summary>The same number.</summary>
        public static implicit operator float(Float16 value)
        {
            uint sign = (uint)(value.Bits & 0x8000) << 16;
            uint magnitude = (uint)(value.Bits & 0x7fff) << 13;
            if (magnitude >= 0x7c00u << 13) return FloatBits.ToSingle(sign | magnitude | 0x7f800000u);
            // Moving the exponent's bias by a multiplication is exact and takes care of subnormal halves.
            return FloatBits.ToSingle(sign | magnitude) * FloatBits.ToSingle((127u + 112u) << 23);
        }

        /// <summary>The nearest half, ties to even. Too large numbers become infinities, NaN stays NaN.</summary>
        public static explicit operator Float16(float value)
        {
            uint bits = FloatBits.FromSingle(value);
            uint sign = bits >> 16 & 0x8000;
            uint magnitude = bits & 0x7fffffff;
            if (magnitude > 0x7f800000) return new Float16((ushort)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff)));
            if (magnitude >= 0x477ff000) return new Float16((ushort)(sign | 0x7c00)); // 65520 and more
            if (magnitude < 0x38800000)
            {
                // Below 2^-14: adding 0.5 lets the processor round to the multiple of 2^-24 that a subnormal half is.
                uint rounded = FloatBits.FromSingle(FloatBits.ToSingle(magnitude) + 0.5f) - 0x3f000000;
                return new Float16((ushort)(sign | rounded));
            }
            uint half = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
            return new Float16((ushort)(sign | half));
        }

        /// <summary>Converts all of <paramref name="source"/>.</summary>
        /// <param name="source">Halves.</param>
        /// <param name="target">At least as many elements.</param>
        public static void ToSingle(ReadOnlySpan<Float16> source, Span<float> target)
        {
            FloatBits.CheckLength(source.Length, target.Length, nameof(target));
            for (int i = 0; i < source.Length; i++) target[i] = source[i];
        }

        /// <summary>Converts all of <paramref name="source"/>, to the nearest, ties to even.</summary>
        /// <param name="source">Numbers.</param>
        /// <param name="target">At least as many elements.</param>
        public static void FromSingle(ReadOnlySpan<float> source, Span<Float16> target)
        {
            FloatBits.CheckLength(source.Length, target.Length, nameof(target));
            for (int i = 0; i < source.Length; i++) target[i] = (Float16)source[i];
        }

        /// <summary>Whether both are the same number: zeros are equal, NaN equals only the same bits.</summary>
        public bool Equals(Float16 other) => Bits == other.Bits || (float)this == (float)other;

        /// <inheritdoc/>
        public override bool Equals(object obj) => obj is Float16 && Equals((Float16)obj);

        /// <inheritdoc/>
        public override int GetHashCode() => (Bits & 0x7fff) == 0 ? 0 : Bits;

        /// <inheritdoc/>
        public override string ToString() => ((float)this).ToString(CultureInfo.InvariantCulture);
    }

    // The bits of a float; BitConverter has this for double only on older frameworks.
    [StructLayout(LayoutKind.Explicit)]
    internal struct FloatBits
    {
        [FieldOffset(0)] private uint bits;
        [FieldOffset(0)] private float value;

        public static float ToSingle(uint bits)
        {
            FloatBits both = default(FloatBits);
            both.bits = bits;
            return both.value;
        }

        public static uint FromSingle(float value)
        {
            FloatBits both = default(FloatBits);
            both.value = value;
            return both.bits;
        }

        public static void CheckLength(int source, int target, string parameter)
        {
            if (target < source)
                throw new ArgumentException("Has " + target + " elements; " + source + " are needed.", parameter);
        }
    }
}
