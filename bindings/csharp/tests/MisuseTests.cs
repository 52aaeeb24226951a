using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;

namespace SeerAttn.Tests
{
    // What callers get wrong: always an exception that says what, never undefined behaviour.
    internal static class MisuseTests
    {
        [Test]
        private static void DisposedObjectsAreRefused()
        {
            var f = new Fixture();
            byte[] output = f.NewOutput();
            var cache = new SeerGateCache(f.Context, f.Model, 64);
            var buffer = new SeerBuffer(f.Context, 64);
            SeerTensor inBuffer = SeerTensor.Of(buffer, 0, SeerDType.BF16, f.Case.Q.Shape);
            buffer.Dispose();
            Expect.Throws<ObjectDisposedException>(() => buffer.Write<byte>(new byte[1]));
            Expect.Throws<ObjectDisposedException>(() => buffer.Read<byte>(new byte[1]));
            Expect.Throws<ObjectDisposedException>(() => buffer.DangerousAddress.ToString());
            Expect.Throws<ObjectDisposedException>(() =>
                f.Context.Prefill(f.Model, f.Case.Layer, inBuffer, f.K, f.V, f.Output(output)));
            cache.Dispose();
            cache.Dispose();
            Expect.Throws<ObjectDisposedException>(() => cache.Length(0));
            Expect.Throws<ObjectDisposedException>(() => cache.Truncate(0));
            Expect.Throws<ObjectDisposedException>(() =>
                f.Context.Prefill(f.Model, f.Case.Layer, f.Q, f.K, f.V, f.Output(output),
                new SeerPrefillOptions { Cache = cache }));
            f.Model.Dispose();
            Expect.Throws<ObjectDisposedException>(() =>
                f.Context.Prefill(f.Model, f.Case.Layer, f.Q, f.K, f.V, f.Output(output)));
            Expect.Throws<ObjectDisposedException>(() => f.Model.Save("."));
            Expect.Throws<ObjectDisposedException>(() => f.Model.Config.ToString());
            Expect.Throws<ObjectDisposedException>(() => new SeerGateCache(f.Context, f.Model, 64));
            f.Context.Dispose();
            f.Context.Dispose();
            Expect.Throws<ObjectDisposedException>(() => f.Context.Attention(f.Q, f.K, f.V, f.Output(output)));
            Expect.Throws<ObjectDisposedException>(() => f.Context.Device.ToString());
            Expect.Throws<ObjectDisposedException>(() => f.Context.WaitAll());
            Expect.Throws<ObjectDisposedException>(() => new SeerBuffer(f.Context, 64));
            Expect.Throws<ObjectDisposedException>(() => SeerModel.Load(f.Context, f.Case.Folder));
            Expect.Equal(SeerStatus.Busy, new SeerException(SeerStatus.Busy, "").Status, "status");
        }

        [Test]
        private static void ParentsMayBeDisposedFirst()
        {
            var f = new Fixture();
            var buffer = new SeerBuffer(f.Context, 8);
            f.Context.Dispose();
            f.Model.Dispose();
            buffer.Write<byte>(new byte[] { 1, 2, 3 }, 5);
            byte[] back = new byte[3];
            buffer.Read<byte>(back, 5);
            Expect.Bytes(new byte[] { 1, 2, 3 }, back, "what was written");
            buffer.Dispose();
        }

        [Test]
        private static void ShortMemoryIsRefused()
        {
            using (var f = new Fixture())
            {
                byte[] output = f.NewOutput();
                Action<SeerTensor, SeerTensor> run = (q, o) => f.Context.Prefill(f.Model, f.Case.Layer, q, f.K, f.V, o);
                SeerTensor shortQ = SeerTensor.Of(f.Case.Q.Bytes.AsMemory(0, f.Case.Q.Bytes.Length - 2),
                    SeerDType.BF16, f.Case.Q.Shape);
                Expect.Refused(SeerStatus.OutOfBounds, "q", () => run(shortQ, f.Output(output)));
                Expect.Refused(SeerStatus.OutOfBounds, "out", () => run(f.Q, f.Output(new byte[output.Length - 1])));
                Expect.Refused(SeerStatus.OutOfBounds, "out", () => run(f.Q, f.Output(new byte[0])));
                Expect.Refused(SeerStatus.OutOfBounds, "out", () =>
                    f.Context.Prefill(f.Model, f.Case.Layer, f.Q, f.K, f.V,
                    SeerTensorSpan.Of(new Span<byte>(output, 0, 64), SeerDType.BF16, f.Case.Q.Shape)));
                Expect.Refused(SeerStatus.OutOfBounds, "q", () => run(f.Q.WithWiderStrides(), f.Output(output)));
                using (var buffer = new SeerBuffer(f.Context, 100))
                {
                    Expect.Refused(SeerStatus.OutOfBounds, "", () =>
                        run(f.Q, SeerTensor.Of(buffer, 0, SeerDType.BF16, f.Case.Q.Shape)));
                    Expect.Refused(SeerStatus.OutOfBounds, "", () => buffer.Write<int>(new int[26]));
                    Expect.Refused(SeerStatus.OutOfBounds, "", () => buffer.Read<int>(new int[1], 97));
                    Expect.Throws<ArgumentOutOfRangeException>(() => buffer.Read<int>(new int[1], -1));
                    Expect.Throws<ArgumentOutOfRangeException>(() => SeerTensor.Of(buffer, -1, SeerDType.F32, 1));
                }
                Expect.Throws<ArgumentOutOfRangeException>(() => new SeerBuffer(f.Context, -1));
                Expect.True(output.All(b => b == 0), "an output that no refused call has touched");
            }
        }

        private static SeerTensor WithWiderStrides(this SeerTensor tensor)
        {
            long[] strides = tensor.Strides.ToArray();
            strides[1] *= 2;
            return tensor.WithStrides(strides);
        }

        [Test]
        private static void WrongTensorsAreRefused()
        {
            using (var f = new Fixture())
            {
                byte[] output = f.NewOutput();
                Func<SeerTensor, SeerTensor, SeerTensor, Action> run = (q, k, o) => () =>
                    f.Context.Prefill(f.Model, f.Case.Layer, q, k, f.V, o);
                long[] shape = f.Case.Q.Shape;
                Expect.Refused(SeerStatus.DType, "q", run(SeerTensor.Of(new int[output.Length / 2], shape), f.K,
                    f.Output(output)));
                Expect.Refused(SeerStatus.DType, "k", run(f.Q,
                    SeerTensor.Of(f.Case.K.Bytes, SeerDType.F16, f.Case.K.Shape), f.Output(output)));
                Expect.Refused(SeerStatus.DType, "out",
                    run(f.Q, f.K, SeerTensor.Of(new float[output.Length / 2], shape)));
                Expect.Throws<SeerException>(run(SeerTensor.Of(f.Case.Q.Bytes, (SeerDType)77, shape), f.K,
                    f.Output(output)));
                Expect.Refused(SeerStatus.Shape, "q", run(SeerTensor.Of(f.Case.Q.Bytes, SeerDType.BF16,
                    new long[] { 1, 1024, 8, 64 }), f.K, f.Output(output)));
                Expect.Refused(SeerStatus.Shape, "q", run(SeerTensor.Of(f.Case.Q.Bytes, SeerDType.BF16,
                    new long[] { -1, 1024, 4, 128 }), f.K, f.Output(output)));
                Expect.Refused(SeerStatus.Shape, "q", run(SeerTensor.Of(f.Case.Q.Bytes, SeerDType.BF16,
                    new[] { 1, long.MaxValue, 4, 128 }), f.K, f.Output(output)));
                Expect.Refused(SeerStatus.Shape, "q", run(SeerTensor.Of(f.Case.Q.Bytes, SeerDType.BF16,
                    new long[] { 1024, 4, 128 }), f.K, f.Output(output)));
                Expect.Refused(SeerStatus.Stride, "q", run(f.Q.WithStrides(1, 1, 1, -1), f.K, f.Output(output)));
                Expect.Throws<SeerException>(run(f.Q.WithStrides(long.MaxValue, long.MaxValue, 128, 1), f.K,
                    f.Output(output)));
                Expect.Refused(SeerStatus.Stride, "out", run(f.Q, f.K, f.Q));
                Expect.Refused(SeerStatus.Stride, "multiple",
                    run(f.Q, f.K, SeerTensor.Of(new byte[output.Length + 1].AsMemory(1), SeerDType.BF16, shape)));
                Expect.Refused(SeerStatus.InvalidArgument, "q", run(null, f.K, f.Output(output)));
                Expect.Refused(SeerStatus.InvalidArgument, "out", run(f.Q, f.K, null));
                Expect.Refused(SeerStatus.MemoryKind, "out",
                    run(f.Q, f.K, SeerTensor.DangerousOfCuda(new IntPtr(4096), output.Length, SeerDType.BF16, shape)));
                Expect.Refused(SeerStatus.MemoryKind, "out",
                    run(f.Q, f.K, SeerTensor.DangerousOfVulkan(4096, 0, output.Length, SeerDType.BF16, shape)));
            }
        }

        [Test]
        private static void WrongArgumentsAreRefused()
        {
            using (var f = new Fixture())
            {
                SeerTensor output = f.Output(f.NewOutput());
                Action<SeerPrefillOptions> run = options =>
                    f.Context.Prefill(f.Model, f.Case.Layer, f.Q, f.K, f.V, output, options);
                Expect.Throws<ArgumentNullException>(() => f.Context.Prefill(null, 0, f.Q, f.K, f.V, output));
                Expect.Throws<SeerException>(() => f.Context.Prefill(f.Model, 1000, f.Q, f.K, f.V, output));
                Expect.Throws<SeerException>(() => f.Context.Prefill(f.Model, -1, f.Q, f.K, f.V, output));
                Expect.Refused(SeerStatus.InvalidArgument, "threshold", () =>
                    run(new SeerPrefillOptions { Select = SeerSelection.ByThreshold(double.NaN) }));
                Expect.Refused(SeerStatus.InvalidArgument, "ratio", () =>
                    run(new SeerPrefillOptions { Select = SeerSelection.ByRatio(2) }));
                Expect.Refused(SeerStatus.InvalidArgument, "token_budget", () =>
                    run(new SeerPrefillOptions { Select = SeerSelection.ByBudget(-1) }));
                Expect.Throws<SeerException>(() => run(new SeerPrefillOptions
                {
                    Select = new SeerSelection { Method = (SeerSelectMethod)9 },
                }));
                Expect.Throws<SeerException>(() =>
                    run(new SeerPrefillOptions { Rope = SeerRope.OfInverseFrequencies(new float[3]) }));
                Expect.Throws<SeerException>(() =>
                    run(new SeerPrefillOptions { Sequences = new SeerSequences(new[] { 0, 2000 }) }));
                Expect.Throws<SeerException>(() => run(new SeerPrefillOptions { CudaStream = IntPtr.Zero }));
                Expect.Throws<ArgumentException>(() => new SeerSequences(new int[1]));
                Expect.Throws<ArgumentException>(() => new SeerSequences(new int[2], new int[3]));
                Expect.Throws<ArgumentNullException>(() => new SeerSequences(null));
                Expect.Throws<ArgumentException>(() => SeerTensor.Of(new float[1]));
                Expect.Throws<ArgumentException>(() => SeerTensor.Of(new float[1], 1, 1, 1, 1, 1));
                Expect.Throws<ArgumentException>(() => SeerTensor.Of(new double[1], 1));
                Expect.Throws<ArgumentException>(() => f.Q.WithStrides(1));
                Expect.Throws<ArgumentNullException>(() => SeerTensor.Of((float[])null, 1));
                Expect.Throws<ArgumentException>(() => SeerTensor.Of(new KeyValuePair<string, int>[1], SeerDType.F32,
                    new long[] { 1 }));
                Expect.Throws<InvalidOperationException>(() => default(SeerTensorSpan).WithStrides(1));
                Expect.Throws<SeerException>(() =>
                    new SeerContext(new SeerContextOptions { Backend = SeerBackend.Cpu, Device = 99 }));
                Expect.Throws<SeerException>(() =>
                    new SeerContext(new SeerContextOptions { Backend = (SeerBackend)99 }));
                Expect.Throws<SeerException>(() => new SeerContext(new SeerContextOptions { Threads = -1 }));
                Expect.Throws<ArgumentOutOfRangeException>(() =>
                    new SeerContext(new SeerContextOptions { WorkspaceLimit = -1 }));
                Expect.Throws<SeerException>(() => new SeerGateCache(f.Context, f.Model, -1));
            }
        }

        [Test]
        private static void CachesRefuseWhatDoesNotFollow()
        {
            using (var f = new Fixture())
            using (var cache = new SeerGateCache(f.Context, f.Model, 512))
            {
                var options = new SeerPrefillOptions { Cache = cache };
                Expect.Refused(SeerStatus.CacheState, "", () =>
                    f.Context.Prefill(f.Model, f.Case.Layer, f.Q, f.K, f.V, f.Output(f.NewOutput()), options));
                Expect.Throws<SeerException>(() => cache.Length(1000));
                Expect.Throws<SeerException>(() => cache.Length(f.Case.Layer, 5));
                Expect.Throws<SeerException>(() => cache.Truncate(-1));
                Expect.Equal(0L, cache.Length(f.Case.Layer), "tokens after a refused call");
            }
        }

        [Test]
        private static void CallbacksMayNotCallTheLibrary()
        {
            using (var f = new Fixture())
            {
                SeerException inside = null;
                var options = new SeerPrefillOptions
                {
                    Progress = new Reporter(p =>
                    {
                        if (inside == null) inside = Expect.Throws<SeerException>(() => new SeerBuffer(f.Context, 8));
                    }),
                };
                f.Context.Prefill(f.Model, f.Case.Layer, f.Q, f.K, f.V, f.Output(f.NewOutput()), options);
                Expect.Equal(SeerStatus.Busy, inside.Status, "status in a callback");
            }
        }

        [Test]
        private static void LoggersAreHeardMayFailAndAreLetGo()
        {
            WeakReference alive = LogOnce(true);
            for (int i = 0; i < 50 && alive.IsAlive; i++)
            {
                GC.Collect();
                GC.WaitForPendingFinalizers();
                Thread.Sleep(10);
            }
            // Mono scans stacks conservatively and may see an old pointer for ever.
            Expect.True(!alive.IsAlive || Type.GetType("Mono.Runtime") != null,
                "a logger that is let go with its context");
            alive = LogOnce(false);
            GC.KeepAlive(alive);
        }

        [System.Runtime.CompilerServices.MethodImpl(System.Runtime.CompilerServices.MethodImplOptions.NoInlining)]
        private static WeakReference LogOnce(bool fail)
        {
            var heard = new List<string>();
            Action<SeerLogLevel, string> log = (level, message) =>
            {
                lock (heard) heard.Add(level + ": " + message);
                if (fail) throw new InvalidOperationException("a logger that fails");
            };
            var options = new SeerContextOptions { Backend = SeerBackend.Cpu, Log = log, LogLevel = SeerLogLevel.Info };
            using (var context = new SeerContext(options))
            {
                Expect.True(heard.Any(line => line.StartsWith("Info: context on", StringComparison.Ordinal)),
                    "a message, not " + string.Join("; ", heard));
                Expect.True(context.Device.Name.Length > 0, "a device name");
            }
            options.Device = 99;
            Expect.Throws<SeerException>(() => new SeerContext(options));
            return new WeakReference(log);
        }

        [Test]
        private static void DevicesAreListed()
        {
            SeerDeviceInfo cpu = SeerDeviceInfo.All(SeerBackend.Cpu).Single();
            Expect.Equal(SeerBackend.Cpu, cpu.Backend, "backend");
            Expect.True(cpu.Supports(SeerDType.BF16) && cpu.Supports(SeerDType.F32) && !cpu.Supports(SeerDType.I64),
                "types");
            Expect.True(!cpu.Supports(SeerDType.None) && !cpu.Supports((SeerDType)64)
                && !cpu.Supports((SeerDType)(-1)), "no types");
            Expect.True(cpu.MemoryBytes > 0 && cpu.Detail.Length > 0 && cpu.Uuid.Count == 16, "memory and detail");
            Expect.True(SeerDeviceInfo.All().Any(d => d.Backend == SeerBackend.Cpu), "the processor among all devices");
            Expect.Throws<SeerException>(() => SeerDeviceInfo.All((SeerBackend)99));
        }
    }
}
