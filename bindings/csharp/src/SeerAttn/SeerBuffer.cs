using System;
using System.Runtime.InteropServices;
using SeerAttn.Native;

namespace SeerAttn
{
    /// <summary>Device memory that the library owns. The object is thread-safe; racing on the contents is the caller's
    /// affair. Calls in flight keep the memory, disposed of or not.</summary>
    public sealed class SeerBuffer : IDisposable
    {
        private readonly BufferHandle handle;

        /// <summary>Allocates memory on a context's device.</summary>
        /// <param name="context">Whose device.</param>
        /// <param name="byteSize">How much.</param>
        public SeerBuffer(SeerContext context, long byteSize)
        {
            if (context == null) throw new ArgumentNullException(nameof(context));
            if (byteSize < 0) throw new ArgumentOutOfRangeException(nameof(byteSize));
            SeerException.ThrowIfFailed(
                Methods.seer_buffer_create(context.Handle, (ulong)byteSize, 0, out handle));
            ByteSize = byteSize;
        }

        /// <summary>How many bytes it has.</summary>
        public long ByteSize { get; }

        /// <summary>Where it is: a host address with the CPU backend, a device address with CUDA. Valid until the last
        /// use of the buffer ends; nothing checks accesses.</summary>
        public unsafe IntPtr DangerousAddress
        {
            get
            {
                void* address;
                SeerException.ThrowIfFailed(Methods.seer_buffer_address(Handle, &address));
                return new IntPtr(address);
            }
        }

        /// <summary>Copies into the buffer, after the work submitted so far. Blocks until it is done.</summary>
        /// <typeparam name="T">Any type without references.</typeparam>
        /// <param name="source">What to copy.</param>
        /// <param name="byteOffset">Where to.</param>
        public unsafe void Write<T>(ReadOnlySpan<T> source, long byteOffset = 0) where T : struct
        {
            if (byteOffset < 0) throw new ArgumentOutOfRangeException(nameof(byteOffset));
            ReadOnlySpan<byte> bytes = MemoryMarshal.AsBytes(source);
            fixed (byte* data = &MemoryMarshal.GetReference(bytes))
                SeerException.ThrowIfFailed(
                    Methods.seer_buffer_write(Handle, (ulong)byteOffset, data, (ulong)bytes.Length));
        }

        /// <summary>Copies out of the buffer, after the work submitted so far. Blocks until it is done.</summary>
        /// <typeparam name="T">Any type without references.</typeparam>
        /// <param name="target">Where to; all of it is filled.</param>
        /// <param name="byteOffset">Where from.</param>
        public unsafe void Read<T>(Span<T> target, long byteOffset = 0) where T : struct
        {
            if (byteOffset < 0) throw new ArgumentOutOfRangeException(nameof(byteOffset));
            Span<byte> bytes = MemoryMarshal.AsBytes(target);
            fixed (byte* data = &MemoryMarshal.GetReference(bytes))
                SeerException.ThrowIfFailed(
                    Methods.seer_buffer_read(Handle, (ulong)byteOffset, data, (ulong)bytes.Length));
        }

        /// <summary>Drops this object's reference.</summary>
        public void Dispose() => handle.Dispose();

        internal BufferHandle Handle
        {
            get
            {
                if (handle.IsClosed) throw new ObjectDisposedException(nameof(SeerBuffer));
                return handle;
            }
        }
    }
}
