using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;

namespace SeerAttn.Tests
{
    internal static class ModelTests
    {
        private static byte[] Run(Fixture f, SeerModel model)
        {
            byte[] output = f.NewOutput();
            f.Context.Prefill(model, f.Case.Layer, f.Q, f.K, f.V, f.Output(output));
            return output;
        }

        [Test]
        private static void ModelsFromFilesMemoryAndArraysAreTheSame()
        {
            string folder = Path.Combine(Path.GetTempPath(), "seerattn-" + Guid.NewGuid().ToString("N"));
            Directory.CreateDirectory(folder);
            try
            {
                using (var f = new Fixture())
                {
                    byte[] json = File.ReadAllBytes(Path.Combine(f.Case.Folder, "config.json"));
                    byte[] pth = File.ReadAllBytes(Path.Combine(f.Case.Folder, "attn_gate_weights.pth"));
                    using (SeerModel model = SeerModel.Load(f.Context, json, pth))
                        Expect.Bytes(f.Expected, Run(f, model), "out of a model from memory");

                    f.Model.Save(folder);
                    string weights = Path.Combine(folder, "attn_gate_weights.safetensors");
                    using (SeerModel model = SeerModel.Load(f.Context, folder,
                        new SeerLoadOptions { SafetensorsOnly = true }))
                        Expect.Bytes(f.Expected, Run(f, model), "out of a saved model");

                    Dictionary<string, Stored> tensors = Stored.ReadFile(weights);
                    SeerGateConfig config = f.Model.Config;
                    var layers = new List<SeerGateWeights>();
                    for (int i = 0; i < config.Layers; i++)
                    {
                        string name = "model.layers." + i + ".self_attn.attn_gate.mask_linear_k.weight";
                        layers.Add(new SeerGateWeights { Wk = tensors[name].AsTensor() });
                    }
                    using (SeerModel model = SeerModel.Create(f.Context, config, layers))
                        Expect.Bytes(f.Expected, Run(f, model), "out of a model from arrays");

                    Expect.Throws<ArgumentException>(() => SeerModel.Create(f.Context, config,
                        layers.Take(1).ToList()));
                    layers[0] = new SeerGateWeights();
                    Expect.Refused(SeerStatus.ModelMismatch, "wk", () => SeerModel.Create(f.Context, config, layers));
                }
            }
            finally
            {
                Directory.Delete(folder, true);
            }
        }

        [Test]
        private static void ConfigTellsWhatTheGatesAre()
        {
            using (var f = new Fixture())
            {
                SeerGateConfig config = f.Model.Config;
                Expect.Equal(4, config.QHeads, "query heads");
                Expect.Equal(1, config.KvHeads, "key/value heads");
                Expect.Equal(128, config.HeadDim, "head dim");
                Expect.Equal(64, config.BlockSize, "block size");
                Expect.Equal(SeerPool.Average, config.QPool, "pooling of q");
                Expect.Equal(SeerPool.Max | SeerPool.Min | SeerPool.Average, config.KPool, "poolings of k");
                Expect.Equal(0.08, config.Select.Threshold, "threshold");
                // Read once; it outlives the model.
                f.Model.Dispose();
                Expect.Equal(128, f.Model.Config.GateDim, "gate dim");
            }
        }

        [Test]
        private static void PartsOfAModelCanBeLoaded()
        {
            using (var f = new Fixture())
            using (SeerModel model = SeerModel.Load(f.Context, f.Case.Folder,
                new SeerLoadOptions { FirstLayer = f.Case.Layer, LayerCount = 1 }))
            {
                Expect.Equal(1, model.Config.Layers, "layers");
                Expect.Equal(f.Case.Layer, model.Config.FirstLayer, "first layer");
                Expect.Bytes(f.Expected, Run(f, model), "out of one layer");
            }
        }

        [Test]
        private static void WhatCannotBeLoadedIsRefused()
        {
            using (var context = new SeerContext(new SeerContextOptions { Backend = SeerBackend.Cpu }))
            {
                Expect.Refused(SeerStatus.IO, "no such folder", () => SeerModel.Load(context, "no such folder"));
                Expect.Throws<ArgumentException>(() => SeerModel.Load(context, "a\0b"));
                Expect.Throws<ArgumentException>(() => SeerModel.Load(context, "\ud800"));
                Expect.Throws<ArgumentNullException>(() => SeerModel.Load(context, null));
                Expect.Throws<ArgumentNullException>(() => SeerModel.Load(null, "folder"));
                string hostile = Path.Combine(Program.Root, "tests", "hostile");
                byte[] json = File.ReadAllBytes(Path.Combine(hostile, "config.json"));
                byte[] pickle = File.ReadAllBytes(Path.Combine(hostile, "bad-os-system.pth"));
                Expect.Refused(SeerStatus.UnsafeFile, "system", () => SeerModel.Load(context, json, pickle));
                Expect.Refused(SeerStatus.Format, "", () => SeerModel.Load(context, json, pickle.AsSpan(0, 100)));
                Expect.Throws<SeerException>(() => SeerModel.Load(context, default(ReadOnlySpan<byte>),
                    default(ReadOnlySpan<byte>)));
                string golden = new Golden("llama-threshold").Folder;
                Expect.Throws<SeerException>(() => SeerModel.Load(context, golden,
                    new SeerLoadOptions { FirstLayer = 1000 }));
                using (SeerModel model = SeerModel.Load(context, golden))
                    Expect.Refused(SeerStatus.IO, "no such folder", () => model.Save("no such folder"));
            }
        }

        [Test]
        private static void LoadingReportsProgressAndStops()
        {
            using (var f = new Fixture())
            {
                var seen = new List<SeerProgress>();
                SeerModel.Load(f.Context, f.Case.Folder,
                    new SeerLoadOptions { Progress = new Reporter(seen.Add) }).Dispose();
                Expect.True(seen.Count > 0 && seen.Last().Done == seen.Last().Total, "progress up to the end");

                var fault = new InvalidOperationException("of the caller");
                var failing = new SeerLoadOptions { Progress = new Reporter(p => { throw fault; }) };
                Expect.True(Expect.Throws<InvalidOperationException>(() =>
                    SeerModel.Load(f.Context, f.Case.Folder, failing)) == fault,
                    "the caller's exception");

                using (var source = new System.Threading.CancellationTokenSource())
                {
                    var cancelling = new SeerLoadOptions { Progress = new Reporter(p => source.Cancel()) };
                    OperationCanceledException error = Expect.Throws<OperationCanceledException>(
                        () => SeerModel.Load(f.Context, f.Case.Folder, cancelling, source.Token));
                    Expect.Equal(source.Token, error.CancellationToken, "token");
                }
            }
        }
    }

    // Progress<T> would call back later and elsewhere.
    internal sealed class Reporter : IProgress<SeerProgress>
    {
        private readonly Action<SeerProgress> report;

        public Reporter(Action<SeerProgress> report) { this.report = report; }

        public void Report(SeerProgress value) => report(value);
    }
}
