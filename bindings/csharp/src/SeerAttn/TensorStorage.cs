using System;
using System.Runtime.InteropServices;
using SeerAttn.Native;

namespace SeerAttn
{
    // What a tensor is apart from where it is. Immutable.
    internal sealed class TensorLayout
    {
        public TensorLayout(SeerDType dtype, long[] shape, long[] strides)
        {
            if (shape == null) throw new ArgumentNullException(nameof(shape));
            if (shape.Length < 1 || shape.Length > 4)
                throw new ArgumentException("A tensor has 1 to 4 dimensions, not " + shape.Length + ".", nameof(shape));
            if (strides != null && strides.Length != shape.Length)
                throw new ArgumentException(
                    "There are " + strides.Length + " strides for " + shape.Length + " dimensions.", nameof(strides));
            DType = dtype;
            Shape = (long[])shape.Clone();
            Strides = strides == null ? null : (long[])strides.Clone();
        }

        public SeerDType DType { get; }

        public long[] Shape { get; }

        public long[] Strides { get; } // null = packed

        public TensorLayout WithStrides(long[] strides)
        {
            if (strides == null) throw new ArgumentNullException(nameof(strides));
            return new TensorLayout(DType, Shape, strides);
        }

        public long[] Packed()
        {
            long[] strides = new long[Shape.Length];
            long step = 1;
            for (int d = strides.Length - 1; d >= 0; d--)
            {
                strides[d] = step;
                step = unchecked(step * Shape[d]);
            }
            return strides;
        }

        public static TensorLayout Required(TensorLayout layout)
        {
            if (layout == null) throw new InvalidOperationException("This tensor is absent.");
            return layout;
        }

        public unsafe void Fill(ref seer_tensor native)
        {
            native.dtype = DType;
            native.ndim = Shape.Length;
            fixed (long* shape = native.shape, stride = native.stride)
            {
                for (int d = 0; d < Shape.Length; d++)
                {
                    shape[d] = Shape[d];
                    stride[d] = Strides == null ? 0 : Strides[d];
                }
            }
        }
    }

    // Where a tensor's memory is. Pin makes it stay there for as long as the call lives.
    internal abstract class TensorStorage
    {
        public abstract void Pin(Call call, ref seer_tensor native);
    }

    internal sealed class MemoryStorage<T> : TensorStorage where T : struct
    {
        private readonly ReadOnlyMemory<T> memory;

        private MemoryStorage(ReadOnlyMemory<T> memory) { this.memory = memory; }

        public static MemoryStorage<T> Of(ReadOnlyMemory<T> memory)
        {
            DTypes.CheckBlittable<T>();
            return new MemoryStorage<T>(memory);
        }

        public override unsafe void Pin(Call call, ref seer_tensor native)
        {
            native.mem = SeerMemoryKind.Host;
            native.data = call.Pin(memory);
            native.size = (ulong)memory.Length * (ulong)DTypes.SizeOf<T>();
        }
    }

    internal sealed class BufferStorage : TensorStorage
    {
        private readonly SeerBuffer buffer;
        private readonly ulong offset;

        public BufferStorage(SeerBuffer buffer, ulong offset)
        {
            this.buffer = buffer;
            this.offset = offset;
        }

        public override void Pin(Call call, ref seer_tensor native)
        {
            native.mem = SeerMemoryKind.Buffer;
            native.buffer = call.Hold(buffer.Handle);
            native.offset = offset;
        }
    }

    internal sealed class ForeignStorage : TensorStorage
    {
        private readonly SeerMemoryKind kind;
        private readonly IntPtr address;
        private readonly ulong vkBuffer;
        private readonly ulong offset;
        private readonly ulong size;

        public ForeignStorage(SeerMemoryKind kind, IntPtr address, ulong vkBuffer, ulong offset, ulong size)
        {
            this.kind = kind;
            this.address = address;
            this.vkBuffer = vkBuffer;
            this.offset = offset;
            this.size = size;
        }

        public override unsafe void Pin(Call call, ref seer_tensor native)
        {
            native.mem = kind;
            native.data = address.ToPointer();
            native.vk_buffer = vkBuffer;
            native.offset = offset;
            native.size = size;
        }
    }

    internal static class DTypes
    {
        public static SeerDType Of<T>() where T : struct
        {
            if (typeof(T) == typeof(float)) return SeerDType.F32;
            if (typeof(T) == typeof(Float16)) return SeerDType.F16;
            if (typeof(T) == typeof(BFloat16)) return SeerDType.BF16;
            if (typeof(T) == typeof(int)) return SeerDType.I32;
            if (typeof(T) == typeof(long)) return SeerDType.I64;
            if (typeof(T) == typeof(byte)) return SeerDType.U8;
            if (typeof(T) == typeof(uint)) return SeerDType.B32;
            // By name: this assembly is also built for frameworks that lack it, and runs on those that have it.
            if (typeof(T).FullName == "System.Half") return SeerDType.F16;
            throw new ArgumentException("Elements of type " + typeof(T) + " are no tensor's. Those of another type that"
                + " has the same bits need the dtype to be named.");
        }

        public static int SizeOf<T>() where T : struct => Size<T>.Value;

        // Throws for types that contain references.
        public static void CheckBlittable<T>() where T : struct
        {
            MemoryMarshal.AsBytes(default(ReadOnlySpan<T>));
        }

        private static class Size<T> where T : struct
        {
            public static readonly int Value = MemoryMarshal.AsBytes(new ReadOnlySpan<T>(new T[1])).Length;
        }
    }
}
