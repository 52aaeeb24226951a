using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Runtime.InteropServices;
using System.Text;

namespace SeerAttn.Tests
{
    // A tensor of a safetensors file.
    internal sealed class Stored
    {
        public string DType;
        public long[] Shape;
        public byte[] Bytes;

        public T[] As<T>() where T : struct => MemoryMarshal.Cast<byte, T>(Bytes).ToArray();

        public SeerTensor AsTensor() => SeerTensor.Of(Bytes, (SeerDType)Enum.Parse(typeof(SeerDType), DType), Shape);

        public static Dictionary<string, Stored> ReadFile(string path)
        {
            byte[] file = File.ReadAllBytes(path);
            int length = checked((int)BitConverter.ToInt64(file, 0));
            var tensors = new Dictionary<string, Stored>();
            foreach (KeyValuePair<string, object> entry in Json.Parse(Encoding.UTF8.GetString(file, 8, length)))
            {
                if (entry.Key == "__metadata__") continue;
                var members = (Dictionary<string, object>)entry.Value;
                long[] range = Numbers(members["data_offsets"]);
                tensors.Add(entry.Key, new Stored
                {
                    DType = (string)members["dtype"],
                    Shape = Numbers(members["shape"]),
                    Bytes = file.AsSpan(8 + length + (int)range[0], (int)(range[1] - range[0])).ToArray(),
                });
            }
            return tensors;
        }

        private static long[] Numbers(object list) => ((List<object>)list).Select(n => (long)(decimal)n).ToArray();
    }

    // A golden case: a folder with gates, inputs and what the original code computes of them.
    internal sealed class Golden
    {
        public readonly string Folder;
        public readonly int Layer;
        public readonly Dictionary<string, Stored> Tensors;

        public Golden(string name)
        {
            Folder = Path.Combine(Program.Root, "tests", "golden", name);
            Dictionary<string, object> settings = Json.Parse(File.ReadAllText(Path.Combine(Folder, "case.json")));
            Layer = (int)(decimal)settings["layer"];
            Tensors = Stored.ReadFile(Path.Combine(Folder, "case.safetensors"));
        }

        public static IEnumerable<string> Names()
        {
            return Directory.GetDirectories(Path.Combine(Program.Root, "tests", "golden")).Select(Path.GetFileName)
                .OrderBy(name => name, StringComparer.Ordinal);
        }

        public Stored Q => Tensors["q"];

        public Stored K => Tensors["k"];

        public Stored V => Tensors["v"];

        public SeerModel Load(SeerContext context) => SeerModel.Load(context, Folder);
    }

    // What most tests start from: the same case on a CPU context, and what one synchronous call makes of it.
    internal sealed class Fixture : IDisposable
    {
        public readonly Golden Case = new Golden("llama-threshold");
        public readonly SeerContext Context = new SeerContext(new SeerContextOptions { Backend = SeerBackend.Cpu });
        public readonly SeerModel Model;
        public readonly byte[] Expected;
        public readonly SeerStats Stats;

        public Fixture()
        {
            Model = Case.Load(Context);
            Expected = new byte[Case.Q.Bytes.Length];
            Stats = Context.Prefill(Model, Case.Layer, Q, K, V, Output(Expected));
        }

        public SeerTensor Q => Case.Q.AsTensor();

        public SeerTensor K => Case.K.AsTensor();

        public SeerTensor V => Case.V.AsTensor();

        public byte[] NewOutput() => new byte[Case.Q.Bytes.Length];

        public SeerTensor Output(byte[] bytes) => SeerTensor.Of(bytes, SeerDType.BF16, Case.Q.Shape);

        public void Dispose()
        {
            Model.Dispose();
            Context.Dispose();
        }
    }
}
