using System;
using System.Runtime.InteropServices;

// The structs of seerattn.h under their own names, field by field. Blittable: nothing is marshalled, the library reads
// these bytes. The tests compare every size, offset and constant with those that the header has.
namespace SeerAttn.Native
{
#pragma warning disable CS0649 // fields that only the library writes, or that stay zero

    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct seer_tensor
    {
        public SeerMemoryKind mem;
        public SeerDType dtype;
        public int ndim;
        public uint reserved0;
        public void* data;
        public ulong vk_buffer;
        public IntPtr buffer;
        public ulong offset;
        public ulong size;
        public fixed long shape[4];
        public fixed long stride[4];
        public ulong reserved1;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct seer_select_spec
    {
        public SeerSelectMethod method;
        public int last_dense_rows;
        public double threshold;
        public double ratio;
        public long token_budget;
        public uint flags;
        public uint reserved;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct seer_rope
    {
        public SeerRopeKind kind;
        public uint inv_freq_count;
        public double theta;
        public double attention_scaling;
        public float* inv_freq;
        public fixed ulong reserved[2];
    }

    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct seer_device_info
    {
        public uint struct_size;
        public SeerBackend backend;
        public int ordinal;
        public uint vendor_id;
        public fixed byte uuid[16];
        public ulong memory_bytes;
        public ulong dtype_bits;
        public fixed byte name[256];
        public fixed byte detail[256];
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct seer_allocator
    {
        public uint struct_size;
        public uint reserved;
        public IntPtr host_alloc;
        public IntPtr host_free;
        public IntPtr device_alloc;
        public IntPtr device_free;
        public IntPtr user;
        public IntPtr release;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct seer_context_params
    {
        public uint struct_size;
        public SeerBackend backend;
        public int device;
        public int threads;
        public ulong flags;
        public seer_allocator* allocator;
        public IntPtr log;
        public IntPtr log_user;
        public IntPtr log_release;
        public SeerLogLevel log_level;
        public uint reserved;
        public ulong workspace_limit;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct seer_load_params
    {
        public uint struct_size;
        public uint flags;
        public int first_layer;
        public int layer_count;
        public int first_kv_head;
        public int kv_head_count;
        public ulong max_file_bytes;
        public IntPtr cancel;
        public IntPtr progress;
        public IntPtr progress_user;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct seer_gate_config
    {
        public uint struct_size;
        public int layers;
        public int q_heads;
        public int kv_heads;
        public int head_dim;
        public int gate_dim;
        public int block_size;
        public SeerPool q_pool;
        public SeerPool k_pool;
        public int force_double;
        public int first_layer;
        public uint reserved;
        public seer_rope rope;
        public seer_rope gate_rope;
        public seer_select_spec select;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct seer_gate_weights
    {
        public uint struct_size;
        public uint reserved;
        public seer_tensor wq;
        public seer_tensor wk;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct seer_gate_cache_params
    {
        public uint struct_size;
        public int sequences;
        public long max_tokens;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct seer_sequences
    {
        public int* q;
        public int* k;
        public int count;
        public uint reserved;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct seer_prefill_desc
    {
        public uint struct_size;
        public uint flags;
        public seer_tensor q;
        public seer_tensor k;
        public seer_tensor v;
        public seer_tensor @out;
        public seer_tensor lse;
        public seer_tensor scores;
        public seer_tensor mask;
        public seer_sequences sequences;
        public seer_select_spec select;
        public seer_rope rope;
        public double softmax_scale;
        public IntPtr cache;
        public long total_len;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct seer_gate_desc
    {
        public uint struct_size;
        public uint flags;
        public seer_tensor q;
        public seer_tensor k;
        public seer_tensor scores;
        public seer_tensor mask;
        public seer_sequences sequences;
        public seer_select_spec select;
        public seer_rope rope;
        public IntPtr cache;
        public long total_len;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct seer_select_desc
    {
        public uint struct_size;
        public uint flags;
        public seer_tensor scores;
        public seer_tensor mask;
        public seer_sequences sequences;
        public long q_len;
        public long k_len;
        public int block_size;
        public uint reserved;
        public seer_select_spec select;
        public long total_len;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct seer_attention_desc
    {
        public uint struct_size;
        public uint flags;
        public seer_tensor q;
        public seer_tensor k;
        public seer_tensor v;
        public seer_tensor @out;
        public seer_tensor lse;
        public seer_tensor mask;
        public seer_sequences sequences;
        public seer_rope rope;
        public double softmax_scale;
        public int block_size;
        public uint reserved;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct seer_submit
    {
        public uint struct_size;
        public uint flags;
        public IntPtr cancel;
        public IntPtr progress;
        public IntPtr progress_user;
        public IntPtr cuda_stream;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct seer_stats
    {
        public uint struct_size;
        public uint reserved;
        public ulong blocks_kept;
        public ulong blocks_causal;
        public ulong fallback_rows;
        public ulong workspace_bytes;
        public ulong device_ns;
        public ulong gate_ns;
        public ulong attend_ns;
    }

#pragma warning restore CS0649

    // Flag bits and other constants that are no enumeration of the public interface.
    internal static class Constants
    {
        public const uint SEER_SELECT_KEEP_DIAGONAL = 1;
        public const uint SEER_SELECT_KEEP_FIRST = 2;
        public const ulong SEER_CONTEXT_REFERENCE = 1;
        public const uint SEER_LOAD_SAFETENSORS_ONLY = 1;
        public const uint SEER_GATE_LOGITS = 1;
        public const uint SEER_SUBMIT_BLOCKING = 1;
        public const uint SEER_SUBMIT_USE_STREAM = 2;
        public const ulong SEER_TICKET_ALL = ulong.MaxValue;
        public const int SEER_VERSION_MAJOR = 0;
        public const int SEER_VERSION_MINOR = 1;
        public const int SEER_VERSION_PATCH = 0;
        public const int SEER_VERSION = (SEER_VERSION_MAJOR << 16) | (SEER_VERSION_MINOR << 8) | SEER_VERSION_PATCH;
    }
}
