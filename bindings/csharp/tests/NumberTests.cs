using System;
using System.Runtime.InteropServices;

#if !NET5_0_OR_GREATER
namespace System
{
    // Stands for the one of .NET 5 and later, whose elements are recognised by its name.
    internal readonly struct Half
    {
        public Half(ushort bits) { Bits = bits; }

        public ushort Bits { get; }
    }
}
#endif

namespace SeerAttn.Tests
{
    internal static class NumberTests
    {
        [Test]
        private static void HalvesSurviveTheWayToFloatAndBack()
        {
            for (int bits = 0; bits <= 0xffff; bits++)
            {
                var half = new Float16((ushort)bits);
                bool nan = (bits & 0x7c00) == 0x7c00 && (bits & 0x3ff) != 0;
                float value = half;
                Expect.Equal(nan, float.IsNaN(value), "NaN of " + bits);
                Expect.Equal(nan ? bits | 0x200 : bits, ((Float16)value).Bits, "half");
                if (nan || (bits & 0x7c00) == 0x7c00) continue;
                int exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
                double want = (exponent == 0 ? fraction : 1024 + fraction) * Math.Pow(2, Math.Max(exponent, 1) - 25);
                Expect.Equal(bits >= 0x8000 ? -want : want, (double)value, "value of " + bits);
            }
        }

        [Test]
        private static void FloatsRoundToTheNearestHalf()
        {
            // Between each two neighbours: just below, at and just above the middle.
            for (int bits = 0; bits < 0x7bff; bits++)
            {
                double low = new Float16((ushort)bits), high = new Float16((ushort)(bits + 1)),
                    middle = (low + high) / 2;
                float below = (float)(middle - (high - low) / 64), above = (float)(middle + (high - low) / 64);
                Expect.Equal(bits, ((Float16)below).Bits, "below the middle");
                Expect.Equal(bits + 1, ((Float16)above).Bits, "above the middle");
                Expect.Equal((bits & 1) == 0 ? bits : bits + 1, ((Float16)(float)middle).Bits, "the middle, to even");
                Expect.Equal(0x8000 | bits + 1, ((Float16)(-above)).Bits, "negative");
            }
            Expect.Equal(0x7bff, ((Float16)65519.99f).Bits, "the largest half");
            Expect.Equal(0x7c00, ((Float16)65520f).Bits, "infinity");
            Expect.Equal(0xfc00, ((Float16)float.NegativeInfinity).Bits, "negative infinity");
            Expect.Equal(0, ((Float16)1e-9f).Bits, "underflow");
            Expect.True(float.IsNaN((Float16)float.NaN), "NaN");
        }

        [Test]
        private static void FloatsRoundToTheNearestBFloat16()
        {
            for (int bits = 0; bits <= 0xffff; bits++)
            {
                var number = new BFloat16((ushort)bits);
                float value = number;
                bool nan = (bits & 0x7f80) == 0x7f80 && (bits & 0x7f) != 0;
                Expect.Equal(nan, float.IsNaN(value), "NaN of " + bits);
                Expect.Equal(nan ? bits | 0x40 : bits, ((BFloat16)value).Bits, "number");
                if (bits >= 0x7f7f) continue;
                double low = value, high = new BFloat16((ushort)(bits + 1)), middle = (low + high) / 2;
                Expect.Equal((bits & 1) == 0 ? bits : bits + 1, ((BFloat16)(float)middle).Bits, "the middle, to even");
                Expect.Equal(bits + 1, ((BFloat16)(float)(middle + (high - low) / 64)).Bits, "above the middle");
            }
            Expect.Equal(0x7f80, ((BFloat16)float.MaxValue).Bits, "infinity");
        }

        [Test]
        private static void SpansConvertAndAreChecked()
        {
            float[] numbers = { 0, 1.5f, -2, 1e30f }, back = new float[4];
            var halves = new Float16[4];
            var shorts = new BFloat16[4];
            Float16.FromSingle(numbers, halves);
            Float16.ToSingle(halves, back);
            Expect.True(back[1] == 1.5f && back[2] == -2 && float.IsPositiveInfinity(back[3]), "halves");
            BFloat16.FromSingle(numbers, shorts);
            BFloat16.ToSingle(shorts, back);
            Expect.True(back[1] == 1.5f && back[2] == -2 && Math.Abs(back[3] / 1e30f - 1) < 0.004, "bfloat16");
            Expect.Throws<ArgumentException>(() => Float16.FromSingle(numbers, new Float16[3]));
            Expect.Throws<ArgumentException>(() => Float16.ToSingle(halves, new float[3]));
            Expect.Throws<ArgumentException>(() => BFloat16.FromSingle(numbers, new BFloat16[3]));
            Expect.Throws<ArgumentException>(() => BFloat16.ToSingle(shorts, new float[3]));
            Expect.True(new Float16(0).Equals(new Float16(0x8000)), "zeros that are equal");
            Expect.Equal(new Float16(0).GetHashCode(), new Float16(0x8000).GetHashCode(), "hash of zeros");
            Expect.Equal("1.5", ((Float16)1.5f).ToString(), "text");
        }

        [Test]
        private static void ElementTypesAreRecognised()
        {
            Expect.Equal(SeerDType.F32, SeerTensor.Of(new float[1], 1).DType, "float");
            Expect.Equal(SeerDType.F16, SeerTensor.Of(new Float16[1], 1).DType, "Float16");
            Expect.Equal(SeerDType.F16, SeerTensor.Of(new Half[1], 1).DType, "Half");
            Expect.Equal(SeerDType.BF16, SeerTensor.Of(new BFloat16[1], 1).DType, "BFloat16");
            Expect.Equal(SeerDType.I32, SeerTensor.Of(new int[1], 1).DType, "int");
            Expect.Equal(SeerDType.I64, SeerTensor.Of(new long[1], 1).DType, "long");
            Expect.Equal(SeerDType.U8, SeerTensor.Of(new byte[1], 1).DType, "byte");
            Expect.Equal(SeerDType.B32, SeerTensor.Of(new uint[1], 1).DType, "uint");
            Expect.Equal(2, Marshal.SizeOf(typeof(Half)), "size of Half");
        }

        // The same numbers in f32, f16 and bf16: results agree to the precision of the type.
        [Test]
        private static void EveryTypeComputesTheSame()
        {
            using (var f = new Fixture())
            {
                float[] q = Wide(f.Case.Q), k = Wide(f.Case.K), v = Wide(f.Case.V);
                float[] single = new float[q.Length], fromHalf = new float[q.Length];
                var half = new Float16[q.Length];
                var all = new SeerPrefillOptions { Select = SeerSelection.All };
                f.Context.Prefill(f.Model, f.Case.Layer, SeerTensor.Of(q, f.Case.Q.Shape),
                    SeerTensor.Of(k, f.Case.K.Shape),
                    SeerTensor.Of(v, f.Case.V.Shape), SeerTensor.Of(single, f.Case.Q.Shape), all);
                f.Context.Prefill(f.Model, f.Case.Layer, SeerTensor.Of(Narrow(q), f.Case.Q.Shape),
                    SeerTensor.Of(Narrow(k), f.Case.K.Shape), SeerTensor.Of(Narrow(v), f.Case.V.Shape),
                    SeerTensor.Of(half, f.Case.Q.Shape), all);
                Float16.ToSingle(half, fromHalf);
                for (int i = 0; i < q.Length; i++)
                    Expect.True(Math.Abs(single[i] - fromHalf[i]) <= 0.01f, "f32 and f16 that agree");
            }
        }

        private static float[] Wide(Stored stored)
        {
            BFloat16[] numbers = stored.As<BFloat16>();
            float[] wide = new float[numbers.Length];
            BFloat16.ToSingle(numbers, wide);
            return wide;
        }

        private static Float16[] Narrow(float[] numbers)
        {
            var narrow = new Float16[numbers.Length];
            Float16.FromSingle(numbers, narrow);
            return narrow;
        }
    }
}
