using System;
using System.Buffers;
using System.Collections.Generic;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using System.Threading;
using System.Threading.Tasks;

namespace SeerAttn.Native
{
    // One call of the library, from the pinning of its memory to its outcome. While it lives, what it has pinned does
    // not move and what it holds is not released, even if the caller disposes of it meanwhile. Dispose only when the
    // library is done with it: after Wait or Outcome, or when Submit has thrown.
    internal sealed class Call : IDisposable
    {
        // Stands for memory of no bytes, which the library does not touch but wants to be somewhere.
        private static readonly IntPtr Nowhere = new IntPtr(64);

        private readonly CancellationToken token;
        private readonly IProgress<SeerProgress> progress;
        private readonly List<MemoryHandle> pins = new List<MemoryHandle>();
        private readonly List<SafeHandle> held = new List<SafeHandle>();
        private readonly TaskCompletionSource<SeerStatus> done =
            new TaskCompletionSource<SeerStatus>(TaskCreationOptions.RunContinuationsAsynchronously);

        private CancelHandle cancel;
        private CancellationTokenRegistration registration;
        private GCHandle self;
        private ExceptionDispatchInfo failure; // of the user's progress object
        private IntPtr context;
        private ulong ticket;
        private volatile bool callsBack;
        private bool disposed;

        public Call(IProgress<SeerProgress> progress, CancellationToken token)
        {
            this.progress = progress;
            this.token = token;
        }

        // ---- Memory -------------------------------------------------------------------------------------------------

        public unsafe void* Pin<T>(ReadOnlyMemory<T> memory)
        {
            MemoryHandle pin = memory.Pin();
            pins.Add(pin);
            return memory.IsEmpty ? Nowhere.ToPointer() : pin.Pointer;
        }

        // The handle's value; it stays valid for as long as this call lives.
        public IntPtr Hold(SafeHandle handle)
        {
            bool added = false;
            handle.DangerousAddRef(ref added);
            held.Add(handle);
            return handle.DangerousGetHandle();
        }

        // Whoever owns a span keeps it pinned until the work is done.
        public unsafe void View(SeerReadOnlyTensorSpan tensor, ref seer_tensor native)
        {
            if (tensor.Tensor != null)
            {
                View(tensor.Tensor, ref native);
            }
            else if (tensor.Layout != null)
            {
                tensor.Layout.Fill(ref native);
                native.mem = SeerMemoryKind.Host;
                native.size = (ulong)tensor.Bytes.Length;
                fixed (byte* data = &MemoryMarshal.GetReference(tensor.Bytes))
                    native.data = tensor.Bytes.IsEmpty ? Nowhere.ToPointer() : data;
            }
        }

        public void View(SeerReadOnlyTensor tensor, ref seer_tensor native)
        {
            if (tensor == null) return;
            tensor.Layout.Fill(ref native);
            tensor.Storage.Pin(this, ref native);
        }

        // ---- Cancelling and progress --------------------------------------------------------------------------------

        public void ThrowIfCancelled() => token.ThrowIfCancellationRequested();

        // A seer_cancel that the token triggers, and the end of a process on Mono.
        public IntPtr Cancel()
        {
            SeerException.ThrowIfFailed(Methods.seer_cancel_create(out cancel));
            registration = token.Register(Trigger, cancel, false);
            return cancel.DangerousGetHandle();
        }

        public IntPtr ProgressFunction => progress == null ? IntPtr.Zero : Callbacks.Progress;

        // For callbacks: names this call and keeps it alive.
        public IntPtr User
        {
            get
            {
                if (!self.IsAllocated) self = GCHandle.Alloc(this);
                return GCHandle.ToIntPtr(self);
            }
        }

        // On a thread of the library. false cancels the work.
        public bool Report(ulong doneUnits, ulong totalUnits)
        {
            try
            {
                progress.Report(new SeerProgress((long)doneUnits, (long)totalUnits));
                return true;
            }
            catch (Exception error)
            {
                Interlocked.CompareExchange(ref failure, ExceptionDispatchInfo.Capture(error), null);
                return false;
            }
        }

        // What the caller is told of a failure: its own progress object's exception, that its token was cancelled, or
        // the library's words.
        public Exception Failure(SeerException error)
        {
            ExceptionDispatchInfo users = Volatile.Read(ref failure);
            if (users != null) users.Throw();
            if (error.Status == SeerStatus.Cancelled && token.IsCancellationRequested)
                return new OperationCanceledException(error.Message, error, token);
            return error;
        }

        public void Check(SeerStatus status)
        {
            if (status < 0) throw Failure(SeerException.FromLastError(status));
        }

        // The process ends; see MonoExit. The call may be completing, or be disposed of, on another thread.
        public void Stop()
        {
            lock (held)
            {
                if (!disposed && cancel != null) Trigger(cancel);
            }
        }

        public void End(ulong nanoseconds)
        {
            lock (held)
            {
                if (disposed) return;
                SeerStatus status = Methods.seer_wait(context, Constants.SEER_TICKET_ALL, nanoseconds);
                if (status != SeerStatus.Ok) return;
            }
            if (callsBack && !done.Task.Wait(TimeSpan.FromMilliseconds(nanoseconds / 1e6))) return;
            Dispose();
        }

        private static void Trigger(object cancel) => Methods.seer_cancel_trigger((CancelHandle)cancel);

        // ---- Work ---------------------------------------------------------------------------------------------------

        // Enqueues the work. `cache` may be null; one thread at a time uses it. After this, Wait or Outcome.
        public unsafe void Submit(ContextHandle context, Work work, ModelHandle model, int layer, void* desc,
            SeerGateCache cache, IntPtr? cudaStream, bool callBack)
        {
            seer_submit submit = default(seer_submit);
            submit.struct_size = (uint)sizeof(seer_submit);
            submit.cancel = Cancel();
            if (progress != null)
            {
                submit.progress = ProgressFunction;
                submit.progress_user = User;
            }
            if (cudaStream.HasValue)
            {
                submit.flags = Constants.SEER_SUBMIT_USE_STREAM;
                submit.cuda_stream = cudaStream.Value;
            }
            this.context = Hold(context);
            MonoExit.Add(this);
            IntPtr user = callBack ? User : IntPtr.Zero; // nothing may fail between Start and seer_on_done
            ulong number = 0;
            lock (cache == null ? pins : cache.Lock)
            {
                Check(Start(context, work, model, layer, desc, &submit, &number));
            }
            ticket = number;
            if (!callBack) return;
            callsBack = true;
            SeerStatus status = Methods.seer_on_done(this.context, ticket, Callbacks.Done, user);
            if (status >= 0) return;
            callsBack = false;
            // There was no memory for the callback. The work is under way and uses what is pinned: wait for it here.
            SeerException error = SeerException.FromLastError(status);
            Methods.seer_wait(this.context, ticket, ulong.MaxValue);
            throw error;
        }

        // On a thread of the library; continuations run elsewhere.
        public void Complete(SeerStatus status) => done.TrySetResult(status);

        public async Task<SeerStats> Outcome()
        {
            SeerStatus status = await done.Task.ConfigureAwait(false);
            SeerStats stats = Wait();
            // The library keeps the words of the last few thousand calls; the status that it called back with stays
            // true.
            if (status < 0) throw Failure(new SeerException(status, ""));
            return stats;
        }

        // Blocks until the work is done.
        public unsafe SeerStats Wait()
        {
            // By value and not by SafeHandle, which refuses once the caller has disposed of the context.
            Check(Methods.seer_wait(context, ticket, ulong.MaxValue));
            seer_stats stats = default(seer_stats);
            stats.struct_size = (uint)sizeof(seer_stats);
            SeerException.ThrowIfFailed(Methods.seer_ticket_stats(context, ticket, &stats));
            return new SeerStats(stats);
        }

        public void Dispose()
        {
            lock (held)
            {
                if (disposed) return;
                disposed = true;
            }
            MonoExit.Remove(this);
            registration.Dispose(); // waits for a Trigger that is running
            if (cancel != null) cancel.Dispose();
            ExceptionDispatchInfo first = null;
            foreach (MemoryHandle pin in pins)
            {
                try
                {
                    pin.Dispose();
                }
                catch (Exception error)
                {
                    // Of a MemoryManager of the user's; the others are unpinned all the same.
                    first = first ?? ExceptionDispatchInfo.Capture(error);
                }
            }
            pins.Clear();
            foreach (SafeHandle handle in held) handle.DangerousRelease();
            held.Clear();
            if (self.IsAllocated) self.Free();
            if (first != null) first.Throw();
        }

        private static unsafe SeerStatus Start(ContextHandle context, Work work, ModelHandle model, int layer,
            void* desc, seer_submit* submit, ulong* ticket)
        {
            switch (work)
            {
                case Work.Prefill:
                    return Methods.seer_prefill(context, model, layer, (seer_prefill_desc*)desc, submit, ticket);
                case Work.Gate:
                    return Methods.seer_gate(context, model, layer, (seer_gate_desc*)desc, submit, ticket);
                case Work.Select:
                    return Methods.seer_select(context, (seer_select_desc*)desc, submit, ticket);
                case Work.Attention:
                    return Methods.seer_attention(context, (seer_attention_desc*)desc, submit, ticket);
                default:
                    throw new ArgumentOutOfRangeException(nameof(work));
            }
        }
    }

    internal enum Work
    {
        Prefill,
        Gate,
        Select,
        Attention,
    }
}
