using System;
using System.Collections.Generic;
using SeerAttn.Native;

namespace SeerAttn
{
    /// <summary>A view of memory that is only read: an element type, a shape, strides and where the data is. Immutable;
    /// it allocates and copies nothing. May be used by several calls and threads at once; racing on the contents is the
    /// caller's affair. During an asynchronous call the memory stays pinned until the work is done.</summary>
    public class SeerReadOnlyTensor
    {
        private readonly TensorStorage storage;
        private readonly TensorLayout layout;

        internal SeerReadOnlyTensor(TensorStorage storage, TensorLayout layout)
        {
            this.storage = storage;
            this.layout = layout;
        }

        /// <summary>The type of its elements.</summary>
        public SeerDType DType => layout.DType;

        /// <summary>Extents, 1 to 4.</summary>
        public IReadOnlyList<long> Shape => Array.AsReadOnly(layout.Shape);

        /// <summary>Steps in elements from one index to the next in each dimension; of packed tensors computed from the
        /// shape.</summary>
        public IReadOnlyList<long> Strides => Array.AsReadOnly(layout.Strides ?? layout.Packed());

        /// <summary>A packed tensor in managed or other memory.</summary>
        /// <typeparam name="T">float, Float16, System.Half, BFloat16, int, long, byte (U8) or uint (B32).</typeparam>
        /// <param name="data">The elements, the last dimension's next to each other.</param>
        /// <param name="shape">1 to 4 extents.</param>
        public static SeerReadOnlyTensor Of<T>(ReadOnlyMemory<T> data, params long[] shape) where T : struct
        {
            return new SeerReadOnlyTensor(MemoryStorage<T>.Of(data), new TensorLayout(DTypes.Of<T>(), shape, null));
        }

        /// <summary>A packed tensor of a type that is not that of the memory's elements, such as bytes from a
        /// file.</summary>
        /// <typeparam name="T">Any type without references.</typeparam>
        /// <param name="data">The elements' bytes.</param>
        /// <param name="dtype">What they are.</param>
        /// <param name="shape">1 to 4 extents.</param>
        public static SeerReadOnlyTensor Of<T>(ReadOnlyMemory<T> data, SeerDType dtype, long[] shape) where T : struct
        {
            return new SeerReadOnlyTensor(MemoryStorage<T>.Of(data), new TensorLayout(dtype, shape, null));
        }

        /// <summary>The same memory with other steps between its elements, for permuted or partial views.</summary>
        /// <param name="strides">In elements, at least 0, one for each dimension; the innermost must be 1.</param>
        public SeerReadOnlyTensor WithStrides(params long[] strides)
        {
            return new SeerReadOnlyTensor(storage, layout.WithStrides(strides));
        }

        internal TensorStorage Storage => storage;

        internal TensorLayout Layout => layout;
    }

    /// <summary>A view of memory that may be written. <inheritdoc cref="SeerReadOnlyTensor"/></summary>
    public sealed class SeerTensor : SeerReadOnlyTensor
    {
        internal SeerTensor(TensorStorage storage, TensorLayout layout) : base(storage, layout) { }

        /// <summary>A packed tensor over an array.</summary>
        /// <typeparam name="T">float, Float16, System.Half, BFloat16, int, long, byte (U8) or uint (B32).</typeparam>
        /// <param name="data">The elements, the last dimension's next to each other.</param>
        /// <param name="shape">1 to 4 extents.</param>
        public static SeerTensor Of<T>(T[] data, params long[] shape) where T : struct
        {
            if (data == null) throw new ArgumentNullException(nameof(data));
            return Of(new Memory<T>(data), shape);
        }

        /// <summary>A packed tensor in managed or other memory.</summary>
        /// <typeparam name="T">float, Float16, System.Half, BFloat16, int, long, byte (U8) or uint (B32).</typeparam>
        /// <param name="data">The elements, the last dimension's next to each other.</param>
        /// <param name="shape">1 to 4 extents.</param>
        public static SeerTensor Of<T>(Memory<T> data, params long[] shape) where T : struct
        {
            return new SeerTensor(MemoryStorage<T>.Of(data), new TensorLayout(DTypes.Of<T>(), shape, null));
        }

        /// <summary>A packed tensor of a type that is not that of the array's elements, such as bytes from a
        /// file.</summary>
        /// <typeparam name="T">Any type without references.</typeparam>
        /// <param name="data">The elements' bytes.</param>
        /// <param name="dtype">What they are.</param>
        /// <param name="shape">1 to 4 extents.</param>
        public static SeerTensor Of<T>(T[] data, SeerDType dtype, long[] shape) where T : struct
        {
            if (data == null) throw new ArgumentNullException(nameof(data));
            return Of(new Memory<T>(data), dtype, shape);
        }

        /// <summary>A packed tensor of a type that is not that of the memory's elements, such as bytes from a
        /// file.</summary>
        /// <typeparam name="T">Any type without references.</typeparam>
        /// <param name="data">The elements' bytes.</param>
        /// <param name="dtype">What they are.</param>
        /// <param name="shape">1 to 4 extents.</param>
        public static SeerTensor Of<T>(Memory<T> data, SeerDType dtype, long[] shape) where T : struct
        {
            return new SeerTensor(MemoryStorage<T>.Of(data), new TensorLayout(dtype, shape, null));
        }

        /// <summary>A packed tensor in the library's own memory.</summary>
        /// <param name="buffer">Stays alive while calls use it, disposed or not.</param>
        /// <param name="byteOffset">Where the first element is; a multiple of its size (on GPUs: of 16).</param>
        /// <param name="dtype">The type of its elements.</param>
        /// <param name="shape">1 to 4 extents.</param>
        public static SeerTensor Of(SeerBuffer buffer, long byteOffset, SeerDType dtype, params long[] shape)
        {
            if (buffer == null) throw new ArgumentNullException(nameof(buffer));
            if (byteOffset < 0) throw new ArgumentOutOfRangeException(nameof(byteOffset));
            return new SeerTensor(new BufferStorage(buffer, (ulong)byteOffset), new TensorLayout(dtype, shape, null));
        }

        /// <summary>A packed tensor in CUDA memory that the caller owns. Nothing checks the address.</summary>
        /// <param name="address">Of device or managed memory, alive until the work is done.</param>
        /// <param name="byteSize">Bytes reachable from there; 0 asks the driver.</param>
        /// <param name="dtype">The type of its elements.</param>
        /// <param name="shape">1 to 4 extents.</param>
        public static SeerTensor DangerousOfCuda(IntPtr address, long byteSize, SeerDType dtype, params long[] shape)
        {
            if (byteSize < 0) throw new ArgumentOutOfRangeException(nameof(byteSize));
            return new SeerTensor(new ForeignStorage(SeerMemoryKind.Cuda, address, 0, 0, (ulong)byteSize),
                new TensorLayout(dtype, shape, null));
        }

        /// <summary>A packed tensor in a VkBuffer that the caller owns. Nothing checks the handle.</summary>
        /// <param name="buffer">A VkBuffer with storage usage, alive until the work is done.</param>
        /// <param name="byteOffset">Where the first element is; a multiple of 16.</param>
        /// <param name="byteSize">Bytes reachable from the buffer's start.</param>
        /// <param name="dtype">The type of its elements.</param>
        /// <param name="shape">1 to 4 extents.</param>
        public static SeerTensor DangerousOfVulkan(ulong buffer, long byteOffset, long byteSize, SeerDType dtype,
            params long[] shape)
        {
            if (byteOffset < 0) throw new ArgumentOutOfRangeException(nameof(byteOffset));
            if (byteSize < 0) throw new ArgumentOutOfRangeException(nameof(byteSize));
            return new SeerTensor(
                new ForeignStorage(SeerMemoryKind.Vulkan, IntPtr.Zero, buffer, (ulong)byteOffset, (ulong)byteSize),
                new TensorLayout(dtype, shape, null));
        }

        /// <inheritdoc cref="SeerReadOnlyTensor.WithStrides"/>
        public new SeerTensor WithStrides(params long[] strides) =>
            new SeerTensor(Storage, Layout.WithStrides(strides));
    }
}
