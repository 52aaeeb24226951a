using System;
using System.Runtime.InteropServices;

namespace SeerAttn
{
    /// <summary>A view of a span that is only read, for calls that return when they are done: stack memory, native
    /// memory, slices. A <see cref="SeerReadOnlyTensor"/> converts to it. The default value is an absent
    /// tensor.</summary>
    public readonly ref struct SeerReadOnlyTensorSpan
    {
        internal readonly ReadOnlySpan<byte> Bytes;
        internal readonly TensorLayout Layout;
        internal readonly SeerReadOnlyTensor Tensor;

        internal SeerReadOnlyTensorSpan(ReadOnlySpan<byte> bytes, TensorLayout layout, SeerReadOnlyTensor tensor)
        {
            Bytes = bytes;
            Layout = layout;
            Tensor = tensor;
        }

        /// <summary>A packed tensor over a span.</summary>
        /// <typeparam name="T">float, Float16, System.Half, BFloat16, int, long, byte (U8) or uint (B32).</typeparam>
        /// <param name="data">The elements, the last dimension's next to each other.</param>
        /// <param name="shape">1 to 4 extents.</param>
        public static SeerReadOnlyTensorSpan Of<T>(ReadOnlySpan<T> data, params long[] shape) where T : struct
        {
            return new SeerReadOnlyTensorSpan(MemoryMarshal.AsBytes(data),
                new TensorLayout(DTypes.Of<T>(), shape, null), null);
        }

        /// <summary>A packed tensor of a type that is not that of the span's elements, such as bytes from a
        /// file.</summary>
        /// <typeparam name="T">Any type without references.</typeparam>
        /// <param name="data">The elements' bytes.</param>
        /// <param name="dtype">What they are.</param>
        /// <param name="shape">1 to 4 extents.</param>
        public static SeerReadOnlyTensorSpan Of<T>(ReadOnlySpan<T> data, SeerDType dtype, long[] shape) where T : struct
        {
            return new SeerReadOnlyTensorSpan(MemoryMarshal.AsBytes(data), new TensorLayout(dtype, shape, null), null);
        }

        /// <inheritdoc cref="SeerReadOnlyTensor.WithStrides"/>
        public SeerReadOnlyTensorSpan WithStrides(params long[] strides)
        {
            if (Tensor != null) return Tensor.WithStrides(strides);
            return new SeerReadOnlyTensorSpan(Bytes, TensorLayout.Required(Layout).WithStrides(strides), null);
        }

        /// <summary>The same tensor; null is the absent one.</summary>
        public static implicit operator SeerReadOnlyTensorSpan(SeerReadOnlyTensor tensor)
        {
            return new SeerReadOnlyTensorSpan(default(ReadOnlySpan<byte>), null, tensor);
        }

        /// <summary>The same tensor.</summary>
        public static implicit operator SeerReadOnlyTensorSpan(SeerTensorSpan tensor)
        {
            return new SeerReadOnlyTensorSpan(tensor.Bytes, tensor.Layout, tensor.Tensor);
        }
    }

    /// <summary>A view of a span that may be written, for calls that return when they are done. A
    /// <see cref="SeerTensor"/> converts to it. The default value is an absent tensor.</summary>
    public readonly ref struct SeerTensorSpan
    {
        internal readonly Span<byte> Bytes;
        internal readonly TensorLayout Layout;
        internal readonly SeerTensor Tensor;

        internal SeerTensorSpan(Span<byte> bytes, TensorLayout layout, SeerTensor tensor)
        {
            Bytes = bytes;
            Layout = layout;
            Tensor = tensor;
        }

        /// <summary>A packed tensor over a span.</summary>
        /// <typeparam name="T">float, Float16, System.Half, BFloat16, int, long, byte (U8) or uint (B32).</typeparam>
        /// <param name="data">The elements, the last dimension's next to each other.</param>
        /// <param name="shape">1 to 4 extents.</param>
        public static SeerTensorSpan Of<T>(Span<T> data, params long[] shape) where T : struct
        {
            return new SeerTensorSpan(MemoryMarshal.AsBytes(data), new TensorLayout(DTypes.Of<T>(), shape, null), null);
        }

        /// <summary>A packed tensor of a type that is not that of the span's elements, such as bytes for a
        /// file.</summary>
        /// <typeparam name="T">Any type without references.</typeparam>
        /// <param name="data">The elements' bytes.</param>
        /// <param name="dtype">What they are.</param>
        /// <param name="shape">1 to 4 extents.</param>
        public static SeerTensorSpan Of<T>(Span<T> data, SeerDType dtype, long[] shape) where T : struct
        {
            return new SeerTensorSpan(MemoryMarshal.AsBytes(data), new TensorLayout(dtype, shape, null), null);
        }

        /// <inheritdoc cref="SeerReadOnlyTensor.WithStrides"/>
        public SeerTensorSpan WithStrides(params long[] strides)
        {
            if (Tensor != null) return Tensor.WithStrides(strides);
            return new SeerTensorSpan(Bytes, TensorLayout.Required(Layout).WithStrides(strides), null);
        }

        /// <summary>The same tensor; null is the absent one.</summary>
        public static implicit operator SeerTensorSpan(SeerTensor tensor)
        {
            return new SeerTensorSpan(default(Span<byte>), null, tensor);
        }
    }
}
