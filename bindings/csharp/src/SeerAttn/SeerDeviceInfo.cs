using System;
using System.Collections.Generic;
using SeerAttn.Native;

namespace SeerAttn
{
    /// <summary>A device that a context can be made on.</summary>
    public sealed class SeerDeviceInfo
    {
        private readonly ulong dtypeBits;

        internal unsafe SeerDeviceInfo(seer_device_info native)
        {
            Backend = native.backend;
            Ordinal = native.ordinal;
            VendorId = native.vendor_id;
            MemoryBytes = (long)native.memory_bytes;
            dtypeBits = native.dtype_bits;
            byte[] uuid = new byte[16];
            for (int i = 0; i < uuid.Length; i++) uuid[i] = native.uuid[i];
            Name = Text.DecodeArray(native.name, 256);
            Detail = Text.DecodeArray(native.detail, 256);
            Uuid = Array.AsReadOnly(uuid);
        }

        /// <summary>The backend that drives it.</summary>
        public SeerBackend Backend { get; }

        /// <summary>Its number among the backend's devices.</summary>
        public int Ordinal { get; }

        /// <summary>PCI vendor; 0 for processors.</summary>
        public uint VendorId { get; }

        /// <summary>16 bytes; zero where unknown.</summary>
        public IReadOnlyList<byte> Uuid { get; }

        /// <summary>Memory that it can use.</summary>
        public long MemoryBytes { get; }

        /// <summary>Its name.</summary>
        public string Name { get; }

        /// <summary>Kernels in use: instruction set, tier, driver; or why the device cannot be used.</summary>
        public string Detail { get; }

        /// <summary>Whether it computes q, k and v of this type.</summary>
        public bool Supports(SeerDType dtype) => dtype > 0 && (int)dtype < 64 && (dtypeBits >> (int)dtype & 1) != 0;

        /// <summary>Every device there is.</summary>
        public static IReadOnlyList<SeerDeviceInfo> All()
        {
            var devices = new List<SeerDeviceInfo>();
            foreach (SeerBackend backend in new[] { SeerBackend.Cuda, SeerBackend.Vulkan, SeerBackend.Cpu })
                devices.AddRange(All(backend));
            return devices.AsReadOnly();
        }

        /// <summary>The devices of a backend; none where it is not built in or its driver is missing.</summary>
        /// <param name="backend">Any but <see cref="SeerBackend.Auto"/>.</param>
        public static unsafe IReadOnlyList<SeerDeviceInfo> All(SeerBackend backend)
        {
            var devices = new List<SeerDeviceInfo>();
            int count;
            SeerException.ThrowIfFailed(Methods.seer_device_count(backend, &count));
            for (int i = 0; i < count; i++)
            {
                seer_device_info info = default(seer_device_info);
                info.struct_size = (uint)sizeof(seer_device_info);
                SeerException.ThrowIfFailed(Methods.seer_device_get(backend, i, &info));
                devices.Add(new SeerDeviceInfo(info));
            }
            return devices.AsReadOnly();
        }
    }
}
