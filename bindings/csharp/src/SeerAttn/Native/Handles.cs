using System;
using System.Runtime.InteropServices;

namespace SeerAttn.Native
{
    // A reference to an object of the library. Disposing drops it once no call uses it any more; the finaliser does the
    // same for a handle that was forgotten. The library keeps parents alive, so the order does not matter.
    internal abstract class Handle : SafeHandle
    {
        protected Handle() : base(IntPtr.Zero, true) { }

        public override bool IsInvalid => handle == IntPtr.Zero;
    }

    internal sealed class ContextHandle : Handle
    {
        public ContextHandle() { MonoExit.Add(this); }

        protected override bool ReleaseHandle() { Methods.seer_context_release(handle); return true; }
    }

    internal sealed class ModelHandle : Handle
    {
        public ModelHandle() { MonoExit.Add(this); }

        protected override bool ReleaseHandle() { Methods.seer_model_release(handle); return true; }
    }

    internal sealed class BufferHandle : Handle
    {
        public BufferHandle() { MonoExit.Add(this); }

        protected override bool ReleaseHandle() { Methods.seer_buffer_release(handle); return true; }
    }

    internal sealed class GateCacheHandle : Handle
    {
        public GateCacheHandle() { MonoExit.Add(this); }

        protected override bool ReleaseHandle() { Methods.seer_gate_cache_release(handle); return true; }
    }

    internal sealed class CancelHandle : Handle
    {
        protected override bool ReleaseHandle() { Methods.seer_cancel_release(handle); return true; }
    }
}
