using System;
using SeerAttn.Native;

namespace SeerAttn
{
    /// <summary>The gate's vector of each complete key block, per layer and sequence, so that a prompt in chunks pools
    /// only what is new. Serves calls of its context and model; keys themselves stay with the caller. Thread-safe: one
    /// call at a time is submitted with it. Work that fails or is cancelled leaves it as it was.</summary>
    public sealed class SeerGateCache : IDisposable
    {
        private readonly GateCacheHandle handle;

        /// <summary>An empty cache.</summary>
        /// <param name="context">Of the calls that it will serve.</param>
        /// <param name="model">Likewise.</param>
        /// <param name="maxTokens">Room, per sequence.</param>
        /// <param name="sequences">Batch size of the calls that it will serve.</param>
        public unsafe SeerGateCache(SeerContext context, SeerModel model, long maxTokens, int sequences = 1)
        {
            if (context == null) throw new ArgumentNullException(nameof(context));
            if (model == null) throw new ArgumentNullException(nameof(model));
            seer_gate_cache_params native = default(seer_gate_cache_params);
            native.struct_size = (uint)sizeof(seer_gate_cache_params);
            native.sequences = sequences;
            native.max_tokens = maxTokens;
            SeerException.ThrowIfFailed(
                Methods.seer_gate_cache_create(context.Handle, model.Handle, &native, out handle));
        }

        /// <summary>Tokens covered, a multiple of the block size, submitted work included.</summary>
        /// <param name="layer">Which layer.</param>
        /// <param name="sequence">Which sequence.</param>
        public unsafe long Length(int layer, int sequence = 0)
        {
            long tokens;
            lock (Lock) SeerException.ThrowIfFailed(Methods.seer_gate_cache_length(Handle, layer, sequence, &tokens));
            return tokens;
        }

        /// <summary>Forgets what lies beyond, in all layers.</summary>
        /// <param name="tokens">Rounded down to blocks; 0 clears.</param>
        /// <param name="sequence">Which sequence; -1: all.</param>
        public void Truncate(long tokens, int sequence = -1)
        {
            lock (Lock) SeerException.ThrowIfFailed(Methods.seer_gate_cache_truncate(Handle, sequence, tokens));
        }

        /// <summary>Drops this object's reference.</summary>
        public void Dispose() => handle.Dispose();

        internal object Lock { get; } = new object();

        internal GateCacheHandle Handle
        {
            get
            {
                if (handle.IsClosed) throw new ObjectDisposedException(nameof(SeerGateCache));
                return handle;
            }
        }
    }
}
