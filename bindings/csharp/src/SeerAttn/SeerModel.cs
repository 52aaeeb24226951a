using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using System.Threading;
using SeerAttn.Native;

namespace SeerAttn
{
    /// <summary>What part of a model to load, and how. Everything has a default.</summary>
    public sealed class SeerLoadOptions
    {
        /// <summary>Layers before this one are not loaded.</summary>
        public int FirstLayer { get; set; }

        /// <summary>0: all from <see cref="FirstLayer"/> on.</summary>
        public int LayerCount { get; set; }

        /// <summary>A tensor-parallel rank's share, in KV heads; its query heads come along.</summary>
        public int FirstKvHead { get; set; }

        /// <summary>0: all from <see cref="FirstKvHead"/> on.</summary>
        public int KvHeadCount { get; set; }

        /// <summary>Per file; 0: 16 GiB.</summary>
        public long MaxFileBytes { get; set; }

        /// <summary>Never open a .pth.</summary>
        public bool SafetensorsOnly { get; set; }

        /// <summary>Told of bytes loaded. Must not call this library; an exception cancels the load and comes out of
        /// it.</summary>
        public IProgress<SeerProgress> Progress { get; set; }
    }

    /// <summary>The weights of one layer's gate. Host memory, F32, F16 or BF16; copied.</summary>
    public sealed class SeerGateWeights
    {
        /// <summary>[q_heads, head_dim * poolings of q, gate_dim]; null in the single form.</summary>
        public SeerReadOnlyTensor Wq { get; set; }

        /// <summary>[kv_heads, head_dim * poolings of k, gate_dim]; [q_heads, ...] in the single form.</summary>
        public SeerReadOnlyTensor Wk { get; set; }
    }

    /// <summary>The gates of a model. Immutable and thread-safe; serves every context of the same device.</summary>
    public sealed class SeerModel : IDisposable
    {
        private readonly ModelHandle handle;
        private readonly Lazy<SeerGateConfig> config;

        private SeerModel(ModelHandle handle)
        {
            this.handle = handle;
            config = new Lazy<SeerGateConfig>(ReadConfig);
        }

        /// <summary>Loads a folder in the style of Hugging Face: config.json and attn_gate_weights.safetensors, else
        /// .pth, else the gates inside the model's own .safetensors. Blocks until it is done.</summary>
        /// <param name="context">Whose device will use it.</param>
        /// <param name="directory">The folder.</param>
        /// <param name="options">null: all of it.</param>
        /// <param name="cancellationToken">Stops the load.</param>
        /// <exception cref="SeerException">A file is missing, malformed or unsafe, or does not fit.</exception>
        /// <exception cref="OperationCanceledException">The token was cancelled before the load was done.</exception>
        public static unsafe SeerModel Load(SeerContext context, string directory, SeerLoadOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            if (context == null) throw new ArgumentNullException(nameof(context));
            byte[] path = Text.Encode(directory, nameof(directory));
            using (Call call = new Call(options?.Progress, cancellationToken))
            {
                seer_load_params native = Describe(call, options);
                ModelHandle handle;
                fixed (byte* p = path) call.Check(Methods.seer_model_load_dir(context.Handle, p, &native, out handle));
                return new SeerModel(handle);
            }
        }

        /// <summary>Loads the same from memory. Blocks until it is done.</summary>
        /// <param name="context">Whose device will use it.</param>
        /// <param name="configJson">What is in config.json, UTF-8.</param>
        /// <param name="weights">What is in the .safetensors or .pth; which of them, its first bytes tell.</param>
        /// <param name="options">null: all of it.</param>
        /// <param name="cancellationToken">Stops the load.</param>
        /// <exception cref="SeerException">Something is malformed or unsafe, or does not fit.</exception>
        /// <exception cref="OperationCanceledException">The token was cancelled before the load was done.</exception>
        public static unsafe SeerModel Load(SeerContext context, ReadOnlySpan<byte> configJson,
            ReadOnlySpan<byte> weights, SeerLoadOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            if (context == null) throw new ArgumentNullException(nameof(context));
            using (Call call = new Call(options?.Progress, cancellationToken))
            {
                seer_load_params native = Describe(call, options);
                ModelHandle handle;
                fixed (byte* c = &MemoryMarshal.GetReference(configJson))
                fixed (byte* w = &MemoryMarshal.GetReference(weights))
                    call.Check(Methods.seer_model_load_memory(context.Handle, c, (ulong)configJson.Length, w,
                        (ulong)weights.Length, &native, out handle));
                return new SeerModel(handle);
            }
        }

        /// <summary>Makes a model of your own gates. The weights are copied. Blocks until it is done.</summary>
        /// <param name="context">Whose device will use it.</param>
        /// <param name="config">What the gates are.</param>
        /// <param name="layers">One for each of config.Layers.</param>
        /// <exception cref="SeerException">Weights and configuration do not fit.</exception>
        public static unsafe SeerModel Create(SeerContext context, SeerGateConfig config,
            IReadOnlyList<SeerGateWeights> layers)
        {
            if (context == null) throw new ArgumentNullException(nameof(context));
            if (config == null) throw new ArgumentNullException(nameof(config));
            if (layers == null) throw new ArgumentNullException(nameof(layers));
            if (layers.Count != config.Layers)
                throw new ArgumentException("There are the weights of " + layers.Count + " layers; config.Layers is "
                    + config.Layers + ".", nameof(layers));
            using (Call call = new Call(null, default(CancellationToken)))
            {
                seer_gate_config native = config.ToNative(call);
                // Pinned like everything else, so that neither array moves while the library reads it.
                var weights = new seer_gate_weights[layers.Count];
                var pointers = new IntPtr[layers.Count];
                for (int i = 0; i < weights.Length; i++)
                {
                    if (layers[i] == null) throw new ArgumentException("Layer " + i + " is null.", nameof(layers));
                    weights[i].struct_size = (uint)sizeof(seer_gate_weights);
                    call.View(layers[i].Wq, ref weights[i].wq);
                    call.View(layers[i].Wk, ref weights[i].wk);
                }
                byte* first = (byte*)call.Pin<seer_gate_weights>(weights);
                for (int i = 0; i < weights.Length; i++)
                    pointers[i] = new IntPtr(first + i * sizeof(seer_gate_weights));
                ModelHandle handle;
                SeerException.ThrowIfFailed(Methods.seer_model_create(context.Handle, &native,
                    (seer_gate_weights**)call.Pin<IntPtr>(pointers), out handle));
                return new SeerModel(handle);
            }
        }

        /// <summary>What the gates are.</summary>
        public SeerGateConfig Config => config.Value;

        /// <summary>Writes config.json and attn_gate_weights.safetensors. Each file is complete or absent, whatever
        /// happens. Blocks until it is done.</summary>
        /// <param name="directory">A folder that exists.</param>
        /// <exception cref="SeerException">The files could not be written.</exception>
        public unsafe void Save(string directory)
        {
            byte[] path = Text.Encode(directory, nameof(directory));
            fixed (byte* p = path) SeerException.ThrowIfFailed(Methods.seer_model_save(Handle, p));
        }

        /// <summary>Drops this object's reference. Work in flight keeps the model.</summary>
        public void Dispose() => handle.Dispose();

        internal ModelHandle Handle
        {
            get
            {
                if (handle.IsClosed) throw new ObjectDisposedException(nameof(SeerModel));
                return handle;
            }
        }

        private static unsafe seer_load_params Describe(Call call, SeerLoadOptions options)
        {
            call.ThrowIfCancelled();
            seer_load_params native = default(seer_load_params);
            native.struct_size = (uint)sizeof(seer_load_params);
            native.cancel = call.Cancel();
            if (options == null) return native;
            if (options.MaxFileBytes < 0) throw new ArgumentOutOfRangeException(nameof(options));
            if (options.SafetensorsOnly) native.flags = Constants.SEER_LOAD_SAFETENSORS_ONLY;
            native.first_layer = options.FirstLayer;
            native.layer_count = options.LayerCount;
            native.first_kv_head = options.FirstKvHead;
            native.kv_head_count = options.KvHeadCount;
            native.max_file_bytes = (ulong)options.MaxFileBytes;
            if (options.Progress != null)
            {
                native.progress = call.ProgressFunction;
                native.progress_user = call.User;
            }
            return native;
        }

        private unsafe SeerGateConfig ReadConfig()
        {
            seer_gate_config native = default(seer_gate_config);
            native.struct_size = (uint)sizeof(seer_gate_config);
            ModelHandle held = Handle;
            bool added = false;
            try
            {
                // The inverse frequencies that it points to live as long as the model.
                held.DangerousAddRef(ref added);
                SeerException.ThrowIfFailed(Methods.seer_model_config(held, &native));
                return new SeerGateConfig(native);
            }
            finally
            {
                if (added) held.DangerousRelease();
            }
        }
    }
}
