using System;
using System.Runtime.InteropServices;
using System.Threading;

namespace SeerAttn.Native
{
    // What the library calls back, on its own threads. `user` is a GCHandle. No exception may leave these methods: it
    // would have to pass through the library's frames.
    internal static unsafe class Callbacks
    {
        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        private delegate void DoneFunction(IntPtr user, ulong ticket, SeerStatus status);

        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        private delegate int ProgressFunction(IntPtr user, ulong done, ulong total);

        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        private delegate void LogFunction(IntPtr user, SeerLogLevel level, byte* message, UIntPtr length);

        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        private delegate void ReleaseFunction(IntPtr user);

        // The delegates live as long as the pointers to them: for ever.
        private static readonly DoneFunction DoneDelegate = OnDone;
        private static readonly ProgressFunction ProgressDelegate = OnProgress;
        private static readonly LogFunction LogDelegate = OnLog;
        private static readonly ReleaseFunction ReleaseDelegate = OnRelease;

        // user: a Call
        public static readonly IntPtr Done = Marshal.GetFunctionPointerForDelegate(DoneDelegate);

        // user: a Call
        public static readonly IntPtr Progress = Marshal.GetFunctionPointerForDelegate(ProgressDelegate);

        // user: an Action<SeerLogLevel, string>
        public static readonly IntPtr Log = Marshal.GetFunctionPointerForDelegate(LogDelegate);

        // Frees the GCHandle.
        public static readonly IntPtr Release = Marshal.GetFunctionPointerForDelegate(ReleaseDelegate);

        [ThreadStatic] private static bool known;

        // Mono, when it ends, waits for threads that it takes for the program's own. It can take the library's for one
        // while they call back for the first time, and then learns only from this that they are not.
        private static void Enter()
        {
            if (known) return;
            Thread.CurrentThread.IsBackground = true;
            known = true;
        }

        private static void OnDone(IntPtr user, ulong ticket, SeerStatus status)
        {
            try
            {
                Enter();
                ((Call)GCHandle.FromIntPtr(user).Target).Complete(status);
            }
            catch (Exception)
            {
                // Nothing of the user's runs in there: the continuation is queued to the thread pool.
            }
        }

        private static int OnProgress(IntPtr user, ulong done, ulong total)
        {
            try
            {
                Enter();
                return ((Call)GCHandle.FromIntPtr(user).Target).Report(done, total) ? 0 : 1;
            }
            catch (Exception)
            {
                return 1;
            }
        }

        private static void OnLog(IntPtr user, SeerLogLevel level, byte* message, UIntPtr length)
        {
            try
            {
                Enter();
                var log = (Action<SeerLogLevel, string>)GCHandle.FromIntPtr(user).Target;
                log(level, Text.Decode(message, checked((int)length)));
            }
            catch (Exception)
            {
                // A logger that fails has nobody to be told.
            }
        }

        private static void OnRelease(IntPtr user)
        {
            try
            {
                Enter();
                GCHandle.FromIntPtr(user).Free();
            }
            catch (Exception)
            {
                // Only if the library released twice; there is nobody to be told.
            }
        }
    }
}
