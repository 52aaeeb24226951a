using System;

namespace SeerAttn
{
    /// <summary>What kind of error a call ended with. Negative values are errors.</summary>
    public enum SeerStatus
    {
        /// <summary>All is well.</summary>
        Ok = 0,
        /// <summary>The work is not complete yet; no error.</summary>
        NotReady = 1,
        /// <summary>The time is up; no error.</summary>
        Timeout = 2,
        /// <summary>A value that is not allowed.</summary>
        InvalidArgument = -1,
        /// <summary>A struct's size or a reserved field; the library and this binding do not fit.</summary>
        Struct = -2,
        /// <summary>A handle that was freed, is of another type or of another device.</summary>
        Handle = -3,
        /// <summary>Shapes that do not fit together.</summary>
        Shape = -4,
        /// <summary>An element type that is not supported there.</summary>
        DType = -5,
        /// <summary>Strides, alignment or overlap.</summary>
        Stride = -6,
        /// <summary>Memory of a kind that the context's device does not take.</summary>
        MemoryKind = -7,
        /// <summary>A view that exceeds its memory: a span, array or buffer that is too short.</summary>
        OutOfBounds = -8,
        /// <summary>Not supported by this device or library.</summary>
        Unsupported = -9,
        /// <summary>Host memory or the context's workspace limit does not suffice.</summary>
        OutOfMemory = -10,
        /// <summary>Device memory does not suffice.</summary>
        DeviceOutOfMemory = -11,
        /// <summary>The context is dead and will not recover.</summary>
        DeviceLost = -12,
        /// <summary>Cancelled work; its outputs are undefined.</summary>
        Cancelled = -13,
        /// <summary>A file could not be read or written.</summary>
        IO = -14,
        /// <summary>A malformed file.</summary>
        Format = -15,
        /// <summary>Loading the file would need the execution of code that it carries.</summary>
        UnsafeFile = -16,
        /// <summary>Weights and configuration, or tensors and model, do not fit.</summary>
        ModelMismatch = -17,
        /// <summary>The gate cache is full, or positions are not contiguous.</summary>
        CacheState = -18,
        /// <summary>Called from a callback of the library.</summary>
        Busy = -19,
        /// <summary>A defect of the library.</summary>
        Internal = -99,
    }

    /// <summary>What computes.</summary>
    public enum SeerBackend
    {
        /// <summary>The first that works: CUDA, Vulkan, CPU.</summary>
        Auto = 0,
        /// <summary>CUDA.</summary>
        Cuda = 1,
        /// <summary>Vulkan.</summary>
        Vulkan = 2,
        /// <summary>The processor.</summary>
        Cpu = 3,
    }

    /// <summary>The type of a tensor's elements.</summary>
    public enum SeerDType
    {
        /// <summary>No type: the tensor is absent.</summary>
        None = 0,
        /// <summary>32-bit floating point, <see cref="float"/>.</summary>
        F32 = 1,
        /// <summary>16-bit floating point, <see cref="Float16"/> or <c>System.Half</c>.</summary>
        F16 = 2,
        /// <summary>The upper half of a 32-bit floating point number, <see cref="BFloat16"/>.</summary>
        BF16 = 3,
        /// <summary>32-bit integer, <see cref="int"/>.</summary>
        I32 = 4,
        /// <summary>64-bit integer, <see cref="long"/>.</summary>
        I64 = 5,
        /// <summary>Byte, <see cref="byte"/>: masks of 0 and 1.</summary>
        U8 = 6,
        /// <summary>32 mask bits in a <see cref="uint"/>, least significant first.</summary>
        B32 = 7,
    }

    /// <summary>Where a tensor's memory is.</summary>
    public enum SeerMemoryKind
    {
        /// <summary>Nowhere: the tensor is absent.</summary>
        None = 0,
        /// <summary>The processor's memory: arrays, spans, Memory.</summary>
        Host = 1,
        /// <summary>CUDA device or managed memory.</summary>
        Cuda = 2,
        /// <summary>A VkBuffer.</summary>
        Vulkan = 3,
        /// <summary>A <see cref="SeerBuffer"/>.</summary>
        Buffer = 4,
    }

    /// <summary>How blocks are chosen.</summary>
    public enum SeerSelectMethod
    {
        /// <summary>As the model's config.json says.</summary>
        Model = 0,
        /// <summary>Blocks of gate probability above a threshold.</summary>
        Threshold = 1,
        /// <summary>A share of the causal triangle.</summary>
        Ratio = 2,
        /// <summary>A number of tokens per row.</summary>
        Budget = 3,
        /// <summary>Every causal block: dense attention through the sparse path.</summary>
        All = 4,
    }

    /// <summary>Which rotary position embedding is applied to q and k.</summary>
    public enum SeerRopeKind
    {
        /// <summary>The model's in prefill and gate; none in attention.</summary>
        Default = 0,
        /// <summary>None: q and k are used as they are.</summary>
        None = 1,
        /// <summary>Plain, of a base.</summary>
        Theta = 2,
        /// <summary>The caller's inverse frequencies.</summary>
        InverseFrequencies = 3,
    }

    /// <summary>How important a message is.</summary>
    public enum SeerLogLevel
    {
        /// <summary>No message. As the level of a context: the default, <see cref="Warning"/>.</summary>
        Off = 0,
        /// <summary>Something failed.</summary>
        Error = 1,
        /// <summary>Something is not as it should be.</summary>
        Warning = 2,
        /// <summary>Worth knowing.</summary>
        Info = 3,
        /// <summary>For developers of the library.</summary>
        Debug = 4,
    }

    /// <summary>Poolings of a gate, concatenated on the channel axis in this order.</summary>
    [Flags]
    public enum SeerPool
    {
        /// <summary>None.</summary>
        None = 0,
        /// <summary>The maximum of a block's tokens.</summary>
        Max = 1,
        /// <summary>The minimum.</summary>
        Min = 2,
        /// <summary>The average.</summary>
        Average = 4,
    }
}
