using System;
using System.Buffers;
using System.Collections.Generic;
using System.Diagnostics;
using System.Linq;
using System.Runtime;
using System.Threading;
using System.Threading.Tasks;

namespace SeerAttn.Tests
{
    internal static class AsyncTests
    {
        private static Task<SeerStats> Start(Fixture f, byte[] output, SeerPrefillOptions options = null,
            CancellationToken token = default(CancellationToken))
        {
            return f.Context.PrefillAsync(f.Model, f.Case.Layer, f.Q, f.K, f.V, f.Output(output), options, token);
        }

        [Test]
        private static async Task PrefillMakesWhatTheBlockingCallMakes()
        {
            using (var f = new Fixture())
            {
                byte[] output = f.NewOutput();
                SeerStats stats = await Start(f, output);
                Expect.Bytes(f.Expected, output, "out");
                Expect.Equal(f.Stats.BlocksKept, stats.BlocksKept, "blocks kept");
                Expect.True(stats.DeviceNanoseconds > 0 && stats.DeviceTime.Ticks > 0, "a time");
            }
        }

        [Test]
        private static async Task EveryStageRunsAsynchronously()
        {
            using (var f = new Fixture())
            {
                long heads = f.Model.Config.QHeads, n = f.Case.Q.Shape[1] / f.Model.Config.BlockSize;
                SeerTensor scores = SeerTensor.Of(new float[heads * n * n], 1, heads, n, n);
                byte[] mask = new byte[heads * n * n], selected = new byte[heads * n * n], output = f.NewOutput();
                await f.Context.GateAsync(f.Model, f.Case.Layer, f.Q, f.K, scores, SeerTensor.Of(mask, 1, heads, n, n));
                await f.Context.SelectAsync(scores, SeerTensor.Of(selected, 1, heads, n, n), f.Model.Config.Select);
                Expect.Bytes(mask, selected, "mask");
                await f.Context.AttentionAsync(f.Q, f.K, f.V, f.Output(output), new SeerAttentionOptions
                {
                    Mask = SeerReadOnlyTensor.Of<byte>(selected, 1, heads, n, n),
                    Rope = f.Model.Config.Rope,
                });
                Expect.Bytes(f.Expected, output, "out");
            }
        }

        [Test]
        private static async Task ErrorsComeOutOfTheTask()
        {
            using (var f = new Fixture())
            {
                Task refused = Start(f, new byte[4]);
                SeerException error = await Expect.ThrowsAsync<SeerException>(() => refused);
                Expect.Equal(SeerStatus.OutOfBounds, error.Status, "status");
                Expect.True(error.Detail.Contains("out"), "the library's words: " + error.Detail);
                await Expect.ThrowsAsync<ArgumentNullException>(() =>
                    f.Context.PrefillAsync(null, 0, f.Q, f.K, f.V, f.Q));
                f.Model.Dispose();
                await Expect.ThrowsAsync<ObjectDisposedException>(() => Start(f, f.NewOutput()));
            }
        }

        [Test]
        private static async Task CancelledTokensStopWork()
        {
            using (var f = new Fixture())
            using (var source = new CancellationTokenSource())
            {
                source.Cancel();
                Task before = Start(f, f.NewOutput(), null, source.Token);
                OperationCanceledException error = await Expect.ThrowsAsync<OperationCanceledException>(() => before);
                Expect.Equal(source.Token, error.CancellationToken, "token");
                Expect.Equal(TaskStatus.Canceled, before.Status, "status of the task");
                Expect.Throws<OperationCanceledException>(() => f.Context.Prefill(f.Model, f.Case.Layer, f.Q, f.K, f.V,
                    f.Output(f.NewOutput()), null, source.Token));
            }
            // Under way: the first report of progress cancels, so that there is always work left to stop.
            using (var f = new Fixture())
            using (var cache = new SeerGateCache(f.Context, f.Model, 1024))
            {
                foreach (bool blocking in new[] { false, true })
                {
                    using (var source = new CancellationTokenSource())
                    {
                        var options = new SeerPrefillOptions { Progress = new Reporter(p => source.Cancel()),
                            Cache = cache };
                        Func<Task> run = () => blocking
                            ? Task.Run(() => f.Context.Prefill(f.Model, f.Case.Layer, f.Q, f.K, f.V,
                                f.Output(f.NewOutput()), options, source.Token))
                            : Start(f, f.NewOutput(), options, source.Token);
                        OperationCanceledException error = await Expect.ThrowsAsync<OperationCanceledException>(run);
                        Expect.Equal(source.Token, error.CancellationToken, "token");
                        Expect.Equal(SeerStatus.Cancelled, ((SeerException)error.InnerException).Status, "status");
                        Expect.Equal(0L, cache.Length(f.Case.Layer), "tokens in the cache of cancelled work");
                    }
                }
                // One token for many calls; those that are done stay done, and the context goes on.
                using (var source = new CancellationTokenSource())
                {
                    await Start(f, f.NewOutput(), null, source.Token);
                    Task[] many = Enumerable.Range(0, 40).Select(i =>
                        (Task)Start(f, f.NewOutput(), null, source.Token)).ToArray();
                    source.Cancel();
                    foreach (Task task in many)
                    {
                        await Task.WhenAny(task);
                        Expect.True(task.Status == TaskStatus.RanToCompletion || task.Status == TaskStatus.Canceled,
                            "done or cancelled, not " + task.Status);
                    }
                    Expect.True(many.Any(t => t.IsCanceled), "a cancelled task");
                }
                byte[] output = f.NewOutput();
                await Start(f, output);
                Expect.Bytes(f.Expected, output, "out after cancelled work");
            }
        }

        [Test]
        private static async Task ProgressIsReportedAndItsFaultsComeOut()
        {
            using (var f = new Fixture())
            {
                var seen = new List<SeerProgress>();
                var options = new SeerPrefillOptions { Progress = new Reporter(p => { lock (seen) seen.Add(p); }) };
                await Start(f, f.NewOutput(), options);
                Expect.True(seen.Count > 1 && seen.All(p => p.Done <= p.Total), "progress");
                var fault = new InvalidOperationException("of the caller");
                options = new SeerPrefillOptions { Progress = new Reporter(p => { throw fault; }) };
                Expect.True(await Expect.ThrowsAsync<InvalidOperationException>(() =>
                    Start(f, f.NewOutput(), options)) == fault, "the caller's exception");
                Expect.True(Expect.Throws<InvalidOperationException>(() =>
                    f.Context.Prefill(f.Model, f.Case.Layer, f.Q, f.K, f.V,
                    f.Output(f.NewOutput()), options)) == fault, "the caller's exception");
            }
        }

        // Everything but the tasks is garbage or disposed of while the work is under way.
        [Test]
        private static async Task WorkInFlightKeepsWhatItNeeds()
        {
            byte[] expected;
            using (var f = new Fixture()) expected = f.Expected;
            for (int round = 0; round < 5; round++)
            {
                byte[] output = new byte[expected.Length];
                Task work = Abandon(output, round % 2 == 0);
                GC.Collect();
                GC.WaitForPendingFinalizers();
                GC.Collect();
                await work;
                Expect.Bytes(expected, output, "out of abandoned work");
            }
        }

        [System.Runtime.CompilerServices.MethodImpl(System.Runtime.CompilerServices.MethodImplOptions.NoInlining)]
        private static Task Abandon(byte[] output, bool dispose)
        {
            var f = new Fixture();
            var buffer = new SeerBuffer(f.Context, f.Case.K.Bytes.Length);
            buffer.Write<byte>(f.Case.K.Bytes);
            SeerTensor k = SeerTensor.Of(buffer, 0, SeerDType.BF16, f.Case.K.Shape);
            Task[] before = Enumerable.Range(0, 3).Select(i => (Task)Start(f, f.NewOutput())).ToArray();
            Task last = f.Context.PrefillAsync(f.Model, f.Case.Layer, f.Q, k, f.V, f.Output(output));
            if (dispose)
            {
                f.Dispose();
                buffer.Dispose();
            }
            return Task.WhenAll(before.Append(last));
        }

        [Test]
        private static async Task CollectionsDoNotMoveWhatIsInUse()
        {
            using (var f = new Fixture())
            using (var stop = new CancellationTokenSource())
            {
                Task collector = Task.Run(() =>
                {
                    while (!stop.IsCancellationRequested)
                    {
                        GCSettings.LargeObjectHeapCompactionMode = GCLargeObjectHeapCompactionMode.CompactOnce;
                        GC.Collect();
                        Thread.Sleep(1);
                    }
                });
                for (int round = 0; round < 10; round++)
                {
                    // Garbage between the arrays gives the collector a reason to move them.
                    var outputs = new List<byte[]>();
                    var work = new List<Task>();
                    for (int i = 0; i < 6; i++)
                    {
                        GC.KeepAlive(new byte[100000]);
                        outputs.Add(f.NewOutput());
                        SeerTensor q = SeerTensor.Of((byte[])f.Case.Q.Bytes.Clone(), SeerDType.BF16, f.Case.Q.Shape);
                        work.Add(f.Context.PrefillAsync(f.Model, f.Case.Layer, q, f.K, f.V, f.Output(outputs[i])));
                    }
                    await Task.WhenAll(work);
                    foreach (byte[] output in outputs) Expect.Bytes(f.Expected, output, "out under collections");
                }
                stop.Cancel();
                await collector;
            }
        }

        [Test]
        private static async Task ManyThreadsShareContextAndModel()
        {
            using (var f = new Fixture())
            using (var cache = new SeerGateCache(f.Context, f.Model, 1024))
            {
                Func<int, Task> worker = async number =>
                {
                    for (int i = 0; i < 8; i++)
                    {
                        byte[] output = f.NewOutput();
                        if ((number + i) % 2 == 0) await Start(f, output).ConfigureAwait(false);
                        else f.Context.Prefill(f.Model, f.Case.Layer, f.Q, f.K, f.V, f.Output(output));
                        Expect.Bytes(f.Expected, output, "out of worker " + number);
                        // Racing for one cache: each call is refused or served, and nothing breaks.
                        try
                        {
                            var options = new SeerPrefillOptions { Cache = cache };
                            await Start(f, f.NewOutput(), options).ConfigureAwait(false);
                        }
                        catch (SeerException error)
                        {
                            Expect.Equal(SeerStatus.CacheState, error.Status, "status of a race for the cache");
                        }
                        cache.Truncate(0);
                    }
                };
                await Task.WhenAll(Enumerable.Range(0, 6).Select(number => Task.Run(() => worker(number))));
                f.Context.WaitAll();
            }
        }

        // A continuation that runs where the task completes must be able to call the library, which its own threads
        // forbid.
        [Test]
        private static async Task ContinuationsMayCallTheLibrary()
        {
            using (var f = new Fixture())
            {
                byte[] output = f.NewOutput();
                await Start(f, f.NewOutput()).ContinueWith(
                    task => f.Context.Prefill(f.Model, f.Case.Layer, f.Q, f.K, f.V, f.Output(output)),
                    CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
                Expect.Bytes(f.Expected, output, "out of a continuation");
            }
        }

        [Test]
        private static async Task MemoryIsPinnedForAsLongAsTheWorkLasts()
        {
            using (var f = new Fixture())
            {
                var memory = new CountingMemory(f.Case.Q.Bytes);
                SeerTensor q = SeerTensor.Of(memory.Memory, SeerDType.BF16, f.Case.Q.Shape);
                await f.Context.PrefillAsync(f.Model, f.Case.Layer, q, f.K, f.V, f.Output(f.NewOutput()));
                Expect.Equal(1, memory.Pins, "pins of a call");
                Expect.Equal(1, memory.Unpins, "unpins of a call");
                await Expect.ThrowsAsync<SeerException>(() =>
                    f.Context.PrefillAsync(f.Model, 99, q, f.K, f.V, f.Output(f.NewOutput())));
                Expect.Equal(2, memory.Pins, "pins with a refused call");
                Expect.Equal(2, memory.Unpins, "unpins with a refused call");
                int unpinnedAtReport = -1;
                f.Context.Prefill(f.Model, f.Case.Layer, q, f.K, f.V, f.Output(f.NewOutput()), new SeerPrefillOptions
                {
                    Progress = new Reporter(p => unpinnedAtReport = Math.Max(unpinnedAtReport, memory.Unpins)),
                });
                Expect.Equal(2, unpinnedAtReport, "unpins while a call runs");
                Expect.Equal(3, memory.Unpins, "unpins of all calls");
                memory.Faulty = true;
                Expect.Throws<InvalidOperationException>(() =>
                    f.Context.Prefill(f.Model, f.Case.Layer, f.Q, q, f.V, f.Output(f.NewOutput())));
            }
        }

        private sealed class CountingMemory : MemoryManager<byte>
        {
            private readonly byte[] bytes;
            private MemoryHandle pin;

            public CountingMemory(byte[] bytes) { this.bytes = bytes; }

            public int Pins { get; private set; }

            public int Unpins { get; private set; }

            public bool Faulty { get; set; }

            public override Span<byte> GetSpan() => bytes;

            public override MemoryHandle Pin(int elementIndex = 0)
            {
                if (Faulty) throw new InvalidOperationException("no pins left");
                Pins++;
                pin = new Memory<byte>(bytes).Slice(elementIndex).Pin();
                unsafe { return new MemoryHandle(pin.Pointer, default(System.Runtime.InteropServices.GCHandle), this); }
            }

            public override void Unpin()
            {
                Unpins++;
                pin.Dispose();
            }

            protected override void Dispose(bool disposing) { }
        }

        // Tickets beyond the number whose outcomes the library keeps.
        [Test]
        private static async Task ThousandsOfCallsMayBeInFlight()
        {
            using (var context = new SeerContext(new SeerContextOptions { Backend = SeerBackend.Cpu }))
            {
                var work = new List<Task>();
                var outputs = new List<float[]>();
                for (int i = 0; i < 5000; i++)
                {
                    float[] output = new float[16], v = Enumerable.Repeat((float)i, 16).ToArray();
                    outputs.Add(output);
                    work.Add(context.AttentionAsync(SeerTensor.Of(new float[16], 1, 1, 1, 16),
                        SeerTensor.Of(new float[16], 1, 1, 1, 16),
                        SeerTensor.Of(v, 1, 1, 1, 16), SeerTensor.Of(output, 1, 1, 1, 16)));
                }
                await Task.WhenAll(work);
                for (int i = 0; i < outputs.Count; i++) Expect.Equal((float)i, outputs[i][7], "out of call " + i);
            }
        }

        // The process ends while the library works and will call back.
        public static int ExitInFlight()
        {
            var f = new Fixture();
            for (int i = 0; i < 20; i++) Start(f, f.NewOutput());
            Console.WriteLine("leaving with work in flight");
            return 0;
        }
    }
}
