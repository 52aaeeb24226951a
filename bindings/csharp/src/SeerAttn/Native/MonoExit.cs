using System;
using System.Collections.Generic;

namespace SeerAttn.Native
{
    // Lets a process on Mono end well. Mono takes its memory down while other threads still run, which must not write
    // there by then, and before that it waits without limit for every thread that ever called back, which those of a
    // context do not end by themselves. So work is cancelled and waited for, and everything is released. .NET needs
    // none of this: there nothing is registered.
    internal static class MonoExit
    {
        private const ulong PatienceNanoseconds = 5000000000;

        private static readonly bool OnMono = Type.GetType("Mono.Runtime") != null;
        private static readonly HashSet<Call> Calls = new HashSet<Call>();
        private static readonly List<WeakReference> Handles = new List<WeakReference>();
        private static int pruneAt = 64;
        private static bool ending;

        static MonoExit()
        {
            if (OnMono) AppDomain.CurrentDomain.ProcessExit += (sender, arguments) => End();
        }

        // A call whose work the library may be doing, until Remove.
        public static void Add(Call call)
        {
            if (!OnMono) return;
            lock (Calls)
            {
                if (ending) throw new InvalidOperationException("The process is ending.");
                Calls.Add(call);
            }
        }

        public static void Remove(Call call)
        {
            if (!OnMono) return;
            lock (Calls) Calls.Remove(call);
        }

        // A handle that keeps a context, and with it threads, alive.
        public static void Add(Handle handle)
        {
            if (!OnMono) return;
            lock (Handles)
            {
                if (Handles.Count >= pruneAt)
                {
                    Handles.RemoveAll(reference => !reference.IsAlive);
                    pruneAt = Math.Max(64, 2 * Handles.Count);
                }
                Handles.Add(new WeakReference(handle));
            }
        }

        private static void End()
        {
            Call[] calls;
            lock (Calls)
            {
                ending = true;
                calls = new Call[Calls.Count];
                Calls.CopyTo(calls);
            }
            foreach (Call call in calls) call.Stop();
            foreach (Call call in calls) call.End(PatienceNanoseconds);
            lock (Handles)
            {
                foreach (WeakReference reference in Handles)
                {
                    Handle handle = (Handle)reference.Target;
                    if (handle != null) handle.Dispose();
                }
            }
        }
    }
}
