using System;
using System.Collections.Generic;
using System.Linq;
using System.Runtime.InteropServices;

namespace SeerAttn.Tests
{
    // Every golden case through every way of handing over memory.
    internal static class GoldenTests
    {
        [Test]
        private static void PrefillComputesWhatTheOriginalComputes()
        {
            int cases = 0;
            using (var context = new SeerContext(new SeerContextOptions { Backend = SeerBackend.Cpu }))
            {
                foreach (string name in Golden.Names())
                {
                    var golden = new Golden(name);
                    using (SeerModel model = golden.Load(context)) Compare(context, model, golden, name);
                    cases++;
                }
            }
            Expect.True(cases >= 10, "ten cases");
        }

        private static void Compare(SeerContext context, SeerModel model, Golden golden, string name)
        {
            Stored wantMask = golden.Tensors["block_mask"], wantLse = golden.Tensors["lse"];
            byte[] mask = new byte[wantMask.Bytes.Length];
            float[] lse = new float[wantLse.Bytes.Length / 4];
            var output = new BFloat16[golden.Q.Bytes.Length / 2];
            SeerStats stats = context.Prefill(model, golden.Layer, golden.Q.AsTensor(), golden.K.AsTensor(),
                golden.V.AsTensor(),
                SeerTensor.Of(output, golden.Q.Shape), new SeerPrefillOptions
                {
                    Mask = SeerTensor.Of(mask, wantMask.Shape),
                    Lse = SeerTensor.Of(lse, wantLse.Shape),
                });

            // Of the original's empty rows we keep the diagonal block; everything else is its mask.
            int blocks = (int)wantMask.Shape[3], kept = 0, fallbacks = 0;
            var same = new bool[mask.Length / blocks];
            for (int row = 0; row < same.Length; row++)
            {
                var want = new ArraySegment<byte>(wantMask.Bytes, row * blocks, blocks);
                var found = new ArraySegment<byte>(mask, row * blocks, blocks);
                kept += found.Sum(b => b);
                same[row] = want.SequenceEqual(found);
                if (want.All(b => b == 0)) fallbacks++;
            }
            Expect.Equal(kept, (int)stats.BlocksKept, name + ": blocks kept");
            Expect.Equal(fallbacks, (int)stats.FallbackRows, name + ": fallback rows");
            Expect.True(same.Count(s => !s) <= fallbacks + same.Length / 100, name + ": the mask is the original's");

            int tokens = (int)golden.Q.Shape[1], heads = (int)golden.Q.Shape[2], dim = (int)golden.Q.Shape[3];
            int qBlocks = (int)wantMask.Shape[2];
            float[] wantLseValues = wantLse.As<float>(), wantOut = golden.Tensors["out"].As<float>();
            int[] rows = golden.Tensors["out_rows"].As<int>();
            var lseError = new RelativeError();
            var outError = new RelativeError();
            for (int b = 0; b < golden.Q.Shape[0]; b++)
            {
                for (int i = 0; i < rows.Length; i++)
                {
                    for (int h = 0; h < heads; h++)
                    {
                        if (!same[(b * heads + h) * qBlocks + rows[i] / model.Config.BlockSize]) continue;
                        int l = (b * heads + h) * tokens + rows[i];
                        lseError.Add(lse[l], wantLseValues[l]);
                        for (int d = 0; d < dim; d++)
                            outError.Add(output[((b * tokens + rows[i]) * heads + h) * dim + d],
                                wantOut[((b * rows.Length + i) * heads + h) * dim + d]);
                    }
                }
            }
            lseError.Check(name + ": lse");
            outError.Check(name + ": out");
        }

        // In the Frobenius norm, as `seer check` has it. The tolerance is that of bf16 inputs.
        private sealed class RelativeError
        {
            private double error;
            private double norm;

            public void Add(double found, double want)
            {
                error += (found - want) * (found - want);
                norm += want * want;
            }

            public void Check(string what)
            {
                double relative = Math.Sqrt(error / norm);
                Expect.True(relative < 4e-3, what + " to be the original's; its relative error is "
                    + relative); // false for NaN
            }
        }

        [Test]
        private static void EveryKindOfMemoryGivesTheSameBytes()
        {
            using (var f = new Fixture())
            {
                // Spans of another type, on the stack as well as on the heap.
                byte[] spans = f.NewOutput();
                f.Context.Prefill(f.Model, f.Case.Layer,
                    SeerReadOnlyTensorSpan.Of<BFloat16>(MemoryMarshal.Cast<byte, BFloat16>(f.Case.Q.Bytes),
                        f.Case.Q.Shape),
                    SeerReadOnlyTensorSpan.Of<ushort>(f.Case.K.As<ushort>(), SeerDType.BF16, f.Case.K.Shape),
                    SeerReadOnlyTensorSpan.Of<byte>(f.Case.V.Bytes, SeerDType.BF16, f.Case.V.Shape),
                    SeerTensorSpan.Of<byte>(spans, SeerDType.BF16, f.Case.Q.Shape));
                Expect.Bytes(f.Expected, spans, "out from spans");

                // The library's own memory.
                byte[] buffered = f.NewOutput();
                using (var q = new SeerBuffer(f.Context, f.Case.Q.Bytes.Length + 64))
                using (var o = new SeerBuffer(f.Context, buffered.Length))
                {
                    q.Write<byte>(f.Case.Q.Bytes, 64);
                    f.Context.Prefill(f.Model, f.Case.Layer, SeerTensor.Of(q, 64, SeerDType.BF16, f.Case.Q.Shape), f.K,
                        f.V,
                        SeerTensor.Of(o, 0, SeerDType.BF16, f.Case.Q.Shape));
                    o.Read<byte>(buffered);
                    Expect.Bytes(f.Expected, buffered, "out from buffers");
                    Expect.True(q.DangerousAddress != IntPtr.Zero, "an address");
                }

                // Native memory.
                byte[] native = f.NewOutput();
                IntPtr memory = Marshal.AllocHGlobal(native.Length);
                try
                {
                    unsafe
                    {
                        f.Context.Prefill(f.Model, f.Case.Layer, f.Q, f.K, f.V,
                            SeerTensorSpan.Of(new Span<BFloat16>(memory.ToPointer(), native.Length / 2),
                                f.Case.Q.Shape));
                    }
                    Marshal.Copy(memory, native, 0, native.Length);
                }
                finally
                {
                    Marshal.FreeHGlobal(memory);
                }
                Expect.Bytes(f.Expected, native, "out from native memory");

                // [B, H, S, D], a view with two strides swapped.
                long s = f.Case.Q.Shape[1], h = f.Case.Q.Shape[2], d = f.Case.Q.Shape[3];
                ushort[] q0 = f.Case.Q.As<ushort>(), permuted = new ushort[q0.Length],
                    outPermuted = new ushort[q0.Length];
                for (int i = 0; i < q0.Length; i++) permuted[(i / d % h * s + i / d / h) * d + i % d] = q0[i];
                long[] strides = { h * s * d, d, s * d, 1 };
                SeerTensor view = SeerTensor.Of(permuted, SeerDType.BF16, f.Case.Q.Shape).WithStrides(strides);
                Expect.Equal(s * d, view.Strides[2], "stride");
                SeerTensor outView = SeerTensor.Of(outPermuted, SeerDType.BF16, f.Case.Q.Shape).WithStrides(strides);
                f.Context.Prefill(f.Model, f.Case.Layer, view, f.K, f.V, outView);
                ushort[] back = new ushort[q0.Length];
                for (int i = 0; i < q0.Length; i++) back[i] = outPermuted[(i / d % h * s + i / d / h) * d + i % d];
                Expect.Bytes(f.Expected, MemoryMarshal.AsBytes<ushort>(back).ToArray(), "out through strides");
            }
        }

        [Test]
        private static void TheStagesMakeWhatPrefillMakes()
        {
            using (var f = new Fixture())
            {
                SeerGateConfig config = f.Model.Config;
                long heads = config.QHeads, n = (f.Case.Q.Shape[1] + config.BlockSize - 1) / config.BlockSize;
                float[] scores = new float[heads * n * n];
                uint[] fromGate = new uint[heads * n * ((n + 31) / 32)], fromSelect = new uint[fromGate.Length];
                SeerTensor scoresTensor = SeerTensor.Of(scores, 1, heads, n, n);
                SeerTensor maskTensor = SeerTensor.Of(fromGate, 1, heads, n, (n + 31) / 32);
                SeerStats gate = f.Context.Gate(f.Model, f.Case.Layer, f.Q, f.K, scoresTensor, maskTensor);
                Expect.Equal(f.Stats.BlocksKept, gate.BlocksKept, "blocks kept by the gate");

                SeerSelection selection = config.Select;
                Expect.Equal(SeerSelectMethod.Threshold, selection.Method, "the model's method");
                f.Context.Select(scoresTensor, SeerTensorSpan.Of<uint>(fromSelect, 1, heads, n, (n + 31) / 32),
                    selection);
                Expect.Bytes(MemoryMarshal.AsBytes<uint>(fromGate).ToArray(),
                    MemoryMarshal.AsBytes<uint>(fromSelect).ToArray(),
                    "mask of select");

                byte[] output = f.NewOutput();
                f.Context.Attention(f.Q, f.K, f.V, f.Output(output),
                    new SeerAttentionOptions { Mask = maskTensor, Rope = config.Rope, BlockSize = config.BlockSize });
                Expect.Bytes(f.Expected, output, "out of attention");

                byte[] dense = f.NewOutput(), all = f.NewOutput();
                f.Context.Attention(f.Q, f.K, f.V, f.Output(dense), new SeerAttentionOptions { Rope = config.Rope });
                SeerStats stats = f.Context.Prefill(f.Model, f.Case.Layer, f.Q, f.K, f.V, f.Output(all),
                    new SeerPrefillOptions { Select = SeerSelection.All });
                Expect.Equal(1.0, stats.Density, "density of everything");
                Expect.Bytes(dense, all, "dense out");
                Expect.True(!dense.SequenceEqual(output), "a sparse result that differs from the dense one");
            }
        }

        [Test]
        private static void ChunksWithACacheMakeWhatOneCallMakes()
        {
            using (var f = new Fixture())
            using (var cache = new SeerGateCache(f.Context, f.Model, 1024))
            {
                // The last rows are dense in each call but only at the prompt's end in the whole: total_len tells.
                const int chunk = 256;
                long tokens = f.Case.Q.Shape[1], heads = f.Case.Q.Shape[2], d = f.Case.Q.Shape[3];
                byte[] output = f.NewOutput();
                for (int start = 0; start < tokens; start += chunk)
                {
                    int rowBytes = (int)(heads * d * 2), keys = start + chunk;
                    f.Context.Prefill(f.Model, f.Case.Layer,
                        SeerReadOnlyTensor.Of<byte>(f.Case.Q.Bytes.AsMemory(start * rowBytes), SeerDType.BF16,
                            new[] { 1, chunk, heads, d }),
                        SeerReadOnlyTensor.Of<byte>(f.Case.K.Bytes, SeerDType.BF16, new[] { 1, keys, 1, d }),
                        SeerReadOnlyTensor.Of<byte>(f.Case.V.Bytes, SeerDType.BF16, new[] { 1, keys, 1, d }),
                        SeerTensor.Of(output.AsMemory(start * rowBytes), SeerDType.BF16, new[] { 1, chunk, heads, d }),
                        new SeerPrefillOptions { Cache = cache, TotalLength = tokens });
                    Expect.Equal(keys, (int)cache.Length(f.Case.Layer), "tokens in the cache");
                }
                int differing = f.Expected.Zip(output, (a, b) => a == b ? 0 : 1).Sum();
                Expect.True(differing <= f.Expected.Length / 100, "chunks that give what one call gives, not "
                    + differing + " bytes");
                cache.Truncate(100);
                Expect.Equal(64L, cache.Length(f.Case.Layer), "tokens after truncation");
            }
        }

        [Test]
        private static void PackedSequencesBehaveAsIfAlone()
        {
            using (var f = new Fixture())
            {
                long tokens = f.Case.Q.Shape[1], heads = f.Case.Q.Shape[2], d = f.Case.Q.Shape[3];
                int[] borders = { 0, 300, (int)tokens };
                byte[] packed = f.NewOutput(), alone = f.NewOutput();
                f.Context.Prefill(f.Model, f.Case.Layer,
                    SeerTensor.Of(f.Case.Q.Bytes, SeerDType.BF16, new[] { tokens, heads, d }),
                    SeerTensor.Of(f.Case.K.Bytes, SeerDType.BF16, new[] { tokens, 1, d }),
                    SeerTensor.Of(f.Case.V.Bytes, SeerDType.BF16, new[] { tokens, 1, d }),
                    SeerTensor.Of(packed, SeerDType.BF16, new[] { tokens, heads, d }),
                    new SeerPrefillOptions { Sequences = new SeerSequences(borders) });
                for (int i = 0; i < 2; i++)
                {
                    int start = borders[i], length = borders[i + 1] - start, head = (int)d * 2;
                    f.Context.Prefill(f.Model, f.Case.Layer,
                        SeerReadOnlyTensor.Of<byte>(f.Case.Q.Bytes.AsMemory((int)heads * start * head), SeerDType.BF16,
                            new[] { 1, length, heads, d }),
                        SeerReadOnlyTensor.Of<byte>(f.Case.K.Bytes.AsMemory(start * head), SeerDType.BF16,
                            new[] { 1, length, 1, d }),
                        SeerReadOnlyTensor.Of<byte>(f.Case.V.Bytes.AsMemory(start * head), SeerDType.BF16,
                            new[] { 1, length, 1, d }),
                        SeerTensor.Of(alone.AsMemory((int)heads * start * head), SeerDType.BF16,
                            new[] { 1, length, heads, d }));
                }
                Expect.Bytes(alone, packed, "out of packed sequences");
            }
        }

        [Test]
        private static void WorkspaceIsWhatACallTakes()
        {
            using (var f = new Fixture())
            {
                byte[] output = f.NewOutput();
                long bytes = f.Context.PrefillWorkspace(f.Model, f.Q, f.K, f.V, f.Output(output));
                Expect.True(bytes > 0, "some workspace");
                Expect.Equal(bytes, f.Stats.WorkspaceBytes, "workspace of the call");
                var options = new SeerContextOptions { Backend = SeerBackend.Cpu, WorkspaceLimit = bytes / 2 };
                using (var small = new SeerContext(options))
                    Expect.Refused(SeerStatus.OutOfMemory, "workspace",
                        () => small.Prefill(f.Model, f.Case.Layer, f.Q, f.K, f.V, f.Output(output)));
            }
        }
    }
}
