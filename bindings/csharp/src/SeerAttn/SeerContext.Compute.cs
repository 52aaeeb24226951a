using System;
using System.Runtime.InteropServices;
using System.Threading;
using System.Threading.Tasks;
using SeerAttn.Native;

namespace SeerAttn
{
    // Each stage or group of stages twice: with spans, returning when it is done, and with Memory, asynchronously. Both
    // build the same description of the call.
    public sealed partial class SeerContext
    {
        /// <summary>All five stages: pool, project, score, select, attend. Blocks until they are done.</summary>
        /// <param name="model">The gates, of this context's device.</param>
        /// <param name="layer">Which layer's gate.</param>
        /// <param name="q">[B, S, Hq, D] after any q/k norm, before RoPE; packed [T, Hq, D].</param>
        /// <param name="k">[B, L, Hkv, D], likewise.</param>
        /// <param name="v">[B, L, Hkv, D].</param>
        /// <param name="output">As q, of the same type; overlaps no other tensor.</param>
        /// <param name="options">null: everything as the model says.</param>
        /// <param name="cancellationToken">Stops the work; the output is then undefined.</param>
        /// <exception cref="SeerException">The library refused or failed.</exception>
        /// <exception cref="OperationCanceledException">The token was cancelled before the work was done.</exception>
        /// <exception cref="ObjectDisposedException">The context, the model, the cache or a buffer is disposed
        /// of.</exception>
        public unsafe SeerStats Prefill(SeerModel model, int layer, SeerReadOnlyTensorSpan q, SeerReadOnlyTensorSpan k,
            SeerReadOnlyTensorSpan v, SeerTensorSpan output, SeerPrefillOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            using (Call call = new Call(options?.Progress, cancellationToken))
            fixed (byte* pq = &MemoryMarshal.GetReference(q.Bytes))
            fixed (byte* pk = &MemoryMarshal.GetReference(k.Bytes))
            fixed (byte* pv = &MemoryMarshal.GetReference(v.Bytes))
            fixed (byte* po = &MemoryMarshal.GetReference(output.Bytes))
            {
                StartPrefill(call, model, layer, q, k, v, output, options, false);
                return call.Wait();
            }
        }

        /// <summary>As <see cref="Prefill"/>, without blocking. The memory of all tensors stays pinned until the work
        /// is done; leave it alone meanwhile. Errors come out of the task.</summary>
        /// <inheritdoc cref="Prefill"/>
        public async Task<SeerStats> PrefillAsync(SeerModel model, int layer, SeerReadOnlyTensor q,
            SeerReadOnlyTensor k, SeerReadOnlyTensor v, SeerTensor output, SeerPrefillOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            using (Call call = new Call(options?.Progress, cancellationToken))
            {
                StartPrefill(call, model, layer, q, k, v, output, options, true);
                return await call.Outcome().ConfigureAwait(false);
            }
        }

        /// <summary>Bytes of workspace that a prefill of these tensors takes beyond them. Computes nothing.</summary>
        /// <inheritdoc cref="Prefill"/>
        public unsafe long PrefillWorkspace(SeerModel model, SeerReadOnlyTensorSpan q, SeerReadOnlyTensorSpan k,
            SeerReadOnlyTensorSpan v, SeerTensorSpan output, SeerPrefillOptions options = null)
        {
            if (model == null) throw new ArgumentNullException(nameof(model));
            using (Call call = new Call(null, default(CancellationToken)))
            {
                seer_prefill_desc desc = DescribePrefill(call, q, k, v, output, options);
                ulong bytes;
                SeerException.ThrowIfFailed(Methods.seer_prefill_workspace(Handle, model.Handle, &desc, &bytes));
                return checked((long)bytes);
            }
        }

        /// <summary>The gate alone: pool, project, score and, if a mask is given, select. Blocks until they are
        /// done.</summary>
        /// <param name="model">The gates, of this context's device.</param>
        /// <param name="layer">Which layer's gate.</param>
        /// <param name="q">[B, S, Hq, D] before RoPE; packed [T, Hq, D].</param>
        /// <param name="k">[B, L, Hkv, D], likewise.</param>
        /// <param name="scores">F32 [B, Hq, nQ, nK], or absent (default).</param>
        /// <param name="mask">B32 [B, Hq, nQ, ceil(nK/32)] or U8 [B, Hq, nQ, nK], or absent (default).</param>
        /// <param name="options">null: everything as the model says.</param>
        /// <param name="cancellationToken">Stops the work; scores and mask are then undefined.</param>
        /// <exception cref="SeerException">The library refused or failed.</exception>
        /// <exception cref="OperationCanceledException">The token was cancelled before the work was done.</exception>
        /// <exception cref="ObjectDisposedException">The context, the model, the cache or a buffer is disposed
        /// of.</exception>
        public unsafe SeerStats Gate(SeerModel model, int layer, SeerReadOnlyTensorSpan q, SeerReadOnlyTensorSpan k,
            SeerTensorSpan scores, SeerTensorSpan mask = default(SeerTensorSpan), SeerGateOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            using (Call call = new Call(options?.Progress, cancellationToken))
            fixed (byte* pq = &MemoryMarshal.GetReference(q.Bytes))
            fixed (byte* pk = &MemoryMarshal.GetReference(k.Bytes))
            fixed (byte* ps = &MemoryMarshal.GetReference(scores.Bytes))
            fixed (byte* pm = &MemoryMarshal.GetReference(mask.Bytes))
            {
                StartGate(call, model, layer, q, k, scores, mask, options, false);
                return call.Wait();
            }
        }

        /// <summary>As <see cref="Gate"/>, without blocking. The memory of all tensors stays pinned until the work is
        /// done; leave it alone meanwhile. Errors come out of the task.</summary>
        /// <inheritdoc cref="Gate"/>
        public async Task<SeerStats> GateAsync(SeerModel model, int layer, SeerReadOnlyTensor q, SeerReadOnlyTensor k,
            SeerTensor scores, SeerTensor mask = null, SeerGateOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            using (Call call = new Call(options?.Progress, cancellationToken))
            {
                StartGate(call, model, layer, q, k, scores, mask, options, true);
                return await call.Outcome().ConfigureAwait(false);
            }
        }

        /// <summary>Scores to a mask. Blocks until it is done.</summary>
        /// <param name="scores">F32 [B, Hq, nQ, nK]: probabilities for a threshold, anything that ranks
        /// otherwise.</param>
        /// <param name="mask">B32 [B, Hq, nQ, ceil(nK/32)] or U8 [B, Hq, nQ, nK].</param>
        /// <param name="selection">Any method but the model's.</param>
        /// <param name="options">null: whole blocks, not packed.</param>
        /// <param name="cancellationToken">Stops the work; the mask is then undefined.</param>
        /// <exception cref="SeerException">The library refused or failed.</exception>
        /// <exception cref="OperationCanceledException">The token was cancelled before the work was done.</exception>
        /// <exception cref="ObjectDisposedException">The context or a buffer is disposed of.</exception>
        public unsafe SeerStats Select(SeerReadOnlyTensorSpan scores, SeerTensorSpan mask, SeerSelection selection,
            SeerSelectOptions options = null, CancellationToken cancellationToken = default(CancellationToken))
        {
            using (Call call = new Call(options?.Progress, cancellationToken))
            fixed (byte* ps = &MemoryMarshal.GetReference(scores.Bytes))
            fixed (byte* pm = &MemoryMarshal.GetReference(mask.Bytes))
            {
                StartSelect(call, scores, mask, selection, options, false);
                return call.Wait();
            }
        }

        /// <summary>As <see cref="Select"/>, without blocking. The memory of both tensors stays pinned until the work
        /// is done; leave it alone meanwhile. Errors come out of the task.</summary>
        /// <inheritdoc cref="Select"/>
        public async Task<SeerStats> SelectAsync(SeerReadOnlyTensor scores, SeerTensor mask, SeerSelection selection,
            SeerSelectOptions options = null, CancellationToken cancellationToken = default(CancellationToken))
        {
            using (Call call = new Call(options?.Progress, cancellationToken))
            {
                StartSelect(call, scores, mask, selection, options, true);
                return await call.Outcome().ConfigureAwait(false);
            }
        }

        /// <summary>Attention under a mask of your own, or dense. Blocks until it is done.</summary>
        /// <param name="q">[B, S, Hq, D]; packed [T, Hq, D].</param>
        /// <param name="k">[B, L, Hkv, D].</param>
        /// <param name="v">[B, L, Hkv, D].</param>
        /// <param name="output">As q, of the same type; overlaps no other tensor.</param>
        /// <param name="options">null: dense, without RoPE.</param>
        /// <param name="cancellationToken">Stops the work; the output is then undefined.</param>
        /// <exception cref="SeerException">The library refused or failed.</exception>
        /// <exception cref="OperationCanceledException">The token was cancelled before the work was done.</exception>
        /// <exception cref="ObjectDisposedException">The context or a buffer is disposed of.</exception>
        public unsafe SeerStats Attention(SeerReadOnlyTensorSpan q, SeerReadOnlyTensorSpan k, SeerReadOnlyTensorSpan v,
            SeerTensorSpan output, SeerAttentionOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            using (Call call = new Call(options?.Progress, cancellationToken))
            fixed (byte* pq = &MemoryMarshal.GetReference(q.Bytes))
            fixed (byte* pk = &MemoryMarshal.GetReference(k.Bytes))
            fixed (byte* pv = &MemoryMarshal.GetReference(v.Bytes))
            fixed (byte* po = &MemoryMarshal.GetReference(output.Bytes))
            {
                StartAttention(call, q, k, v, output, options, false);
                return call.Wait();
            }
        }

        /// <summary>As <see cref="Attention"/>, without blocking. The memory of all tensors stays pinned until the work
        /// is done; leave it alone meanwhile. Errors come out of the task.</summary>
        /// <inheritdoc cref="Attention"/>
        public async Task<SeerStats> AttentionAsync(SeerReadOnlyTensor q, SeerReadOnlyTensor k, SeerReadOnlyTensor v,
            SeerTensor output, SeerAttentionOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            using (Call call = new Call(options?.Progress, cancellationToken))
            {
                StartAttention(call, q, k, v, output, options, true);
                return await call.Outcome().ConfigureAwait(false);
            }
        }

        // ---- From the binding's words to the library's --------------------------------------------------------------

        private unsafe void StartPrefill(Call call, SeerModel model, int layer, SeerReadOnlyTensorSpan q,
            SeerReadOnlyTensorSpan k, SeerReadOnlyTensorSpan v, SeerTensorSpan output, SeerPrefillOptions options,
            bool callBack)
        {
            if (model == null) throw new ArgumentNullException(nameof(model));
            call.ThrowIfCancelled();
            seer_prefill_desc desc = DescribePrefill(call, q, k, v, output, options);
            call.Submit(Handle, Work.Prefill, model.Handle, layer, &desc, options?.Cache, options?.CudaStream,
                callBack);
        }

        private static unsafe seer_prefill_desc DescribePrefill(Call call, SeerReadOnlyTensorSpan q,
            SeerReadOnlyTensorSpan k, SeerReadOnlyTensorSpan v, SeerTensorSpan output, SeerPrefillOptions options)
        {
            seer_prefill_desc desc = default(seer_prefill_desc);
            desc.struct_size = (uint)sizeof(seer_prefill_desc);
            call.View(q, ref desc.q);
            call.View(k, ref desc.k);
            call.View(v, ref desc.v);
            call.View(output, ref desc.@out);
            if (options == null) return desc;
            call.View(options.Lse, ref desc.lse);
            call.View(options.Scores, ref desc.scores);
            call.View(options.Mask, ref desc.mask);
            desc.sequences = SeerSequences.ToNative(options.Sequences, call);
            desc.select = options.Select.ToNative();
            desc.rope = options.Rope.ToNative(call);
            desc.softmax_scale = options.SoftmaxScale;
            desc.total_len = options.TotalLength;
            if (options.Cache != null) desc.cache = call.Hold(options.Cache.Handle);
            return desc;
        }

        private unsafe void StartGate(Call call, SeerModel model, int layer, SeerReadOnlyTensorSpan q,
            SeerReadOnlyTensorSpan k, SeerTensorSpan scores, SeerTensorSpan mask, SeerGateOptions options,
            bool callBack)
        {
            if (model == null) throw new ArgumentNullException(nameof(model));
            call.ThrowIfCancelled();
            seer_gate_desc desc = default(seer_gate_desc);
            desc.struct_size = (uint)sizeof(seer_gate_desc);
            call.View(q, ref desc.q);
            call.View(k, ref desc.k);
            call.View(scores, ref desc.scores);
            call.View(mask, ref desc.mask);
            if (options != null)
            {
                if (options.Logits) desc.flags = Constants.SEER_GATE_LOGITS;
                desc.sequences = SeerSequences.ToNative(options.Sequences, call);
                desc.select = options.Select.ToNative();
                desc.rope = options.Rope.ToNative(call);
                desc.total_len = options.TotalLength;
                if (options.Cache != null) desc.cache = call.Hold(options.Cache.Handle);
            }
            call.Submit(Handle, Work.Gate, model.Handle, layer, &desc, options?.Cache, options?.CudaStream, callBack);
        }

        private unsafe void StartSelect(Call call, SeerReadOnlyTensorSpan scores, SeerTensorSpan mask,
            SeerSelection selection, SeerSelectOptions options, bool callBack)
        {
            call.ThrowIfCancelled();
            seer_select_desc desc = default(seer_select_desc);
            desc.struct_size = (uint)sizeof(seer_select_desc);
            call.View(scores, ref desc.scores);
            call.View(mask, ref desc.mask);
            desc.select = selection.ToNative();
            if (options != null)
            {
                desc.sequences = SeerSequences.ToNative(options.Sequences, call);
                desc.q_len = options.QueryLength;
                desc.k_len = options.KeyLength;
                desc.block_size = options.BlockSize;
                desc.total_len = options.TotalLength;
            }
            call.Submit(Handle, Work.Select, null, 0, &desc, null, options?.CudaStream, callBack);
        }

        private unsafe void StartAttention(Call call, SeerReadOnlyTensorSpan q, SeerReadOnlyTensorSpan k,
            SeerReadOnlyTensorSpan v, SeerTensorSpan output, SeerAttentionOptions options, bool callBack)
        {
            call.ThrowIfCancelled();
            seer_attention_desc desc = default(seer_attention_desc);
            desc.struct_size = (uint)sizeof(seer_attention_desc);
            call.View(q, ref desc.q);
            call.View(k, ref desc.k);
            call.View(v, ref desc.v);
            call.View(output, ref desc.@out);
            if (options != null)
            {
                call.View(options.Lse, ref desc.lse);
                call.View(options.Mask, ref desc.mask);
                desc.sequences = SeerSequences.ToNative(options.Sequences, call);
                desc.rope = options.Rope.ToNative(call);
                desc.softmax_scale = options.SoftmaxScale;
                desc.block_size = options.BlockSize;
            }
            call.Submit(Handle, Work.Attention, null, 0, &desc, null, options?.CudaStream, callBack);
        }
    }
}
