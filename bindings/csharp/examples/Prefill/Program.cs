// The attention of one layer through its gate. usage: Prefill GATE_FOLDER TENSORS.safetensors [LAYER]
using System;
using System.IO;
using System.Linq;
using System.Text.Json;
using System.Threading.Tasks;
using SeerAttn;

internal static class Program
{
    private static async Task<int> Main(string[] args)
    {
        if (args.Length < 2)
        {
            Console.Error.WriteLine("usage: Prefill GATE_FOLDER TENSORS.safetensors [LAYER]");
            return 2;
        }
        int layer = args.Length > 2 ? int.Parse(args[2]) : 0;
        var backend = Enum.Parse<SeerBackend>(Environment.GetEnvironmentVariable("SEER_BACKEND") ?? "auto", true);

        using var context = new SeerContext(new SeerContextOptions { Backend = backend });
        using SeerModel model = SeerModel.Load(context, args[0]);
        byte[] file = File.ReadAllBytes(args[1]);
        SeerTensor q = Read(file, "q"), k = Read(file, "k"), v = Read(file, "v");
        byte[] bytes = new byte[q.Shape.Aggregate(1L, (a, b) => a * b) * (q.DType == SeerDType.F32 ? 4 : 2)];
        SeerTensor output = SeerTensor.Of(bytes, q.DType, q.Shape.ToArray());

        SeerStats stats = await context.PrefillAsync(model, layer, q, k, v, output);
        Console.WriteLine(FormattableString.Invariant($"density  {100 * stats.Density:F1} %"));
        Console.WriteLine(FormattableString.Invariant($"time     {stats.DeviceNanoseconds / 1e6:F2} ms"));
        Console.WriteLine($"checksum {Crc32(bytes):x8}");
        return 0;
    }

    // A view of a tensor of a safetensors file: 8 bytes of length, a JSON header, then the data.
    private static SeerTensor Read(byte[] file, string name)
    {
        int start = 8 + checked((int)BitConverter.ToInt64(file, 0));
        using JsonDocument header = JsonDocument.Parse(file.AsMemory(8, start - 8));
        JsonElement tensor = header.RootElement.GetProperty(name);
        int[] range = tensor.GetProperty("data_offsets").EnumerateArray().Select(n => n.GetInt32()).ToArray();
        return SeerTensor.Of(file.AsMemory(start + range[0], range[1] - range[0]),
            Enum.Parse<SeerDType>(tensor.GetProperty("dtype").GetString()),
            tensor.GetProperty("shape").EnumerateArray().Select(n => n.GetInt64()).ToArray());
    }

    // CRC-32/ISO-HDLC, zlib's.
    private static uint Crc32(byte[] bytes)
    {
        uint crc = ~0u;
        foreach (byte b in bytes)
        {
            crc ^= b;
            for (int i = 0; i < 8; i++) crc = crc >> 1 ^ (0u - (crc & 1) & 0xedb88320);
        }
        return ~crc;
    }
}
