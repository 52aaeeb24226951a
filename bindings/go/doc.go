// Package seerattn runs SeerAttention (arXiv 2410.13276): learned gates that predict which blocks of the attention
// matrix matter, and block-sparse attention that computes only those. It binds libseerattn through cgo.
//
//	dev, err := seerattn.Open(seerattn.Options{})
//	model, err := dev.LoadDir(ctx, "path/to/gates", seerattn.LoadOptions{})
//	stats, err := dev.Prefill(ctx, model, layer, &seerattn.PrefillArgs{
//		Q:   seerattn.TensorOf(q, batch, tokens, heads, dim), // before RoPE
//		K:   seerattn.TensorOf(k, batch, tokens, kvHeads, dim),
//		V:   seerattn.TensorOf(v, batch, tokens, kvHeads, dim),
//		Out: seerattn.TensorOf(out, batch, tokens, heads, dim),
//	})
//
// # Shapes
//
// B batch, S query tokens, L key tokens, Hq and Hkv heads (Hq a multiple of Hkv), D head dim, P block size, nQ =
// ceil(S/P), nK = ceil(L/P), W = ceil(nK/32). Attention is causal, aligned bottom-right: query i sees keys 0 .. L-S+i.
//
//	             batch                       packed (Sequences given): T, TK all tokens, R = sum of ceil(S_b/P)
//	q, out       [B, S, Hq, D]               [T, Hq, D]
//	k, v         [B, L, Hkv, D]              [TK, Hkv, D]
//	lse          [B, Hq, S]        F32       [Hq, T]
//	scores       [B, Hq, nQ, nK]   F32       [Hq, R, nK]
//	mask         [B, Hq, nQ, W]    B32       [Hq, R, W]
//
// q, k, v and out share one dtype: F32, F16 or BF16. Bit c of word w of a B32 mask is key block 32w+c; a U8 mask has nK
// bytes a row, 0 or 1. Sizes and offsets of buffers are in bytes, shapes and strides in elements. Zero values are the
// documented defaults everywhere.
//
// # Memory
//
// A [Tensor] is a view of the caller's slice, of a [Buffer] or of device memory. Slices are pinned while the library may
// touch them: until the call returns, or, for the Start calls, until the [Ticket] is done. Until then nobody may read
// outputs or write inputs.
//
// Close releases what a [Context], [Model], [Buffer] or [GateCache] holds, at once or when the last call that uses it is
// done, in any order; it never waits. Finalizers are a net below that, not a plan: the garbage collector does not see
// the size of what the library holds.
//
// # Goroutines
//
// Every type may be used from several goroutines at once; calls of one Context run in the order in which they arrive.
// A blocking call occupies an operating system thread until it returns.
//
// # Cancellation
//
// Cancelling the context.Context of a call stops its work soon, wherever it is. The error then is the context's and the
// library's at once: errors.Is(err, context.Canceled) and errors.Is(err, ErrCancelled). Outputs of cancelled work are
// undefined; a gate cache is as it was. The call returns when the library has let go of the slices, and not before.
//
// # Errors
//
// Every error of the library is an [*Error] with a [Status] and a text that says which argument and which value; test
// for a kind with errors.Is(err, seerattn.ErrShape). A call that fails has changed nothing.
package seerattn
