using System;
using System.Runtime.InteropServices;
using SeerAttn.Native;

namespace SeerAttn
{
    /// <summary>What a context is made from. Everything has a default.</summary>
    public sealed class SeerContextOptions
    {
        /// <summary>What computes; the first that works if not set.</summary>
        public SeerBackend Backend { get; set; }

        /// <summary>Which of the backend's devices.</summary>
        public int Device { get; set; }

        /// <summary>CPU: threads that a call uses; 0: one per core that the process may use.</summary>
        public int Threads { get; set; }

        /// <summary>CPU: the plain reference kernels, slow, for checking.</summary>
        public bool ReferenceKernels { get; set; }

        /// <summary>Bytes that a call may take beyond its tensors; 0: no limit. A call over it fails before it
        /// starts.</summary>
        public long WorkspaceLimit { get; set; }

        /// <summary>Hears messages, on any thread; must not call this library. null: silence.</summary>
        public Action<SeerLogLevel, string> Log { get; set; }

        /// <summary>The least important messages that it hears; warnings if not set.</summary>
        public SeerLogLevel LogLevel { get; set; }
    }

    /// <summary>One device and one queue. Thread-safe: calls from several threads run in the order of arrival. Dispose
    /// of it when no more calls are to be made; those in flight are finished.</summary>
    public sealed partial class SeerContext : IDisposable
    {
        private readonly ContextHandle handle;

        /// <summary>A context on the best device there is, or on the one that the options name.</summary>
        /// <param name="options">null: defaults.</param>
        public unsafe SeerContext(SeerContextOptions options = null)
        {
            options = options ?? new SeerContextOptions();
            if (options.WorkspaceLimit < 0) throw new ArgumentOutOfRangeException(nameof(options));
            seer_context_params native = default(seer_context_params);
            native.struct_size = (uint)sizeof(seer_context_params);
            native.backend = options.Backend;
            native.device = options.Device;
            native.threads = options.Threads;
            native.log_level = options.LogLevel;
            native.workspace_limit = (ulong)options.WorkspaceLimit;
            if (options.ReferenceKernels) native.flags |= Constants.SEER_CONTEXT_REFERENCE;
            GCHandle log = default(GCHandle);
            if (options.Log != null)
            {
                log = GCHandle.Alloc(options.Log);
                native.log = Callbacks.Log;
                native.log_user = GCHandle.ToIntPtr(log);
                native.log_release = Callbacks.Release;
            }
            bool created = false;
            try
            {
                SeerException.ThrowIfFailed(Methods.seer_context_create(&native, out handle));
                created = true;
            }
            finally
            {
                // From then on the library calls Release when it needs the logger no more.
                if (!created && log.IsAllocated) log.Free();
            }
        }

        /// <summary>The version of the library that runs.</summary>
        public static Version LibraryVersion
        {
            get
            {
                uint version = Methods.seer_version();
                return new Version((int)(version >> 16), (int)(version >> 8 & 0xff), (int)(version & 0xff));
            }
        }

        /// <summary>What it runs on.</summary>
        public unsafe SeerDeviceInfo Device
        {
            get
            {
                seer_device_info info = default(seer_device_info);
                info.struct_size = (uint)sizeof(seer_device_info);
                SeerException.ThrowIfFailed(Methods.seer_context_info(Handle, &info));
                return new SeerDeviceInfo(info);
            }
        }

        /// <summary>Blocks until everything submitted so far is done, however it went.</summary>
        public void WaitAll()
        {
            using (Call call = new Call(null, default(System.Threading.CancellationToken)))
            {
                SeerException.ThrowIfFailed(
                    Methods.seer_wait(call.Hold(Handle), Constants.SEER_TICKET_ALL, ulong.MaxValue));
            }
        }

        /// <summary>Drops this object's reference. Work in flight, models and buffers keep what they need.</summary>
        public void Dispose() => handle.Dispose();

        internal ContextHandle Handle
        {
            get
            {
                if (handle.IsClosed) throw new ObjectDisposedException(nameof(SeerContext));
                return handle;
            }
        }
    }
}
