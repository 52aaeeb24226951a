package seerattn

// #include "shim.h"
import "C"

import (
	"context"
	"runtime"
	"unsafe"
)

// PrefillArgs are the tensors and settings of a prefill.
type PrefillArgs struct {
	Q, K, V   Tensor // after any q/k norm, BEFORE RoPE
	Out       Tensor
	LSE       Tensor // out, optional: natural log of the softmax denominators
	Scores    Tensor // out, optional: gate probabilities (logits for ratio and budget); 0 or -inf outside the triangle
	Mask      Tensor // out, optional: the blocks attended to
	Sequences Sequences
	Select    SelectSpec
	// Rope overrides both the attention's (of D channels) and the gate's.
	Rope         Rope
	SoftmaxScale float64 // 0 = 1/sqrt(D)
	// Cache is for prompts in chunks; nil: K is pooled whole. L-S must be a multiple of P, with or without a cache.
	Cache *GateCache
	// TotalLen is, of chunks, the tokens of the whole prompt, for SelectRatio and LastDenseRows; 0 = L is all there is.
	TotalLen int
	// Progress hears of units of work done, from any thread, several at once. A panic in it cancels the work and goes on
	// in the goroutine that waits for it. It must not call runtime.Goexit, as testing.T.Fatal does.
	Progress func(done, total uint64)
	Stream   Stream
}

// GateArgs are the tensors and settings of a gate alone: pool, project, score and, if there is a Mask, select.
type GateArgs struct {
	Q, K      Tensor // before RoPE
	Scores    Tensor // out; one of Scores and Mask must be there
	Mask      Tensor // out
	Logits    bool   // Scores are logits, whatever the method
	Sequences Sequences
	Select    SelectSpec
	Rope      Rope // overrides the gate's
	Cache     *GateCache
	TotalLen  int
	Progress  func(done, total uint64)
	Stream    Stream
}

// SelectArgs are the tensors and settings of a selection: scores to mask.
type SelectArgs struct {
	Scores    Tensor // F32; probabilities for SelectThreshold, anything that ranks for the others
	Mask      Tensor
	Sequences Sequences // tokens, as in prefill; required with packed scores
	QLen      int       // S; 0 = nQ*P. Not used with Sequences
	KLen      int       // L; 0 = nK*P. Not used with Sequences
	BlockSize int       // 32, 64 or 128; 0 = 64
	Select    SelectSpec
	TotalLen  int
	Progress  func(done, total uint64)
	Stream    Stream
}

// AttentionArgs are the tensors and settings of an attention with any mask or none.
type AttentionArgs struct {
	Q, K, V Tensor
	Out     Tensor
	LSE     Tensor // out, optional
	// Mask is an input; absent = dense. Bits above the causal triangle are ignored. A row without blocks gives 0, its lse
	// -inf.
	Mask         Tensor
	Sequences    Sequences
	Rope         Rope // RopeDefault = none: q and k already carry it
	SoftmaxScale float64
	BlockSize    int // 32, 64 or 128; 0 = 64
	Progress     func(done, total uint64)
	Stream       Stream
}

// Prefill runs all five stages of one layer: pool, project, score, select, attend. It waits until that is done.
func (c *Context) Prefill(ctx context.Context, m *Model, layer int, args *PrefillArgs) (Stats, error) {
	return c.run(ctx, prefill(m, layer, args))
}

// StartPrefill is Prefill without waiting. Cancelling ctx cancels the work, also after StartPrefill has returned.
func (c *Context) StartPrefill(ctx context.Context, m *Model, layer int, args *PrefillArgs) (*Ticket, error) {
	return c.start(ctx, prefill(m, layer, args))
}

// Gate runs a layer's gate alone.
func (c *Context) Gate(ctx context.Context, m *Model, layer int, args *GateArgs) (Stats, error) {
	return c.run(ctx, gate(m, layer, args))
}

// StartGate is Gate without waiting.
func (c *Context) StartGate(ctx context.Context, m *Model, layer int, args *GateArgs) (*Ticket, error) {
	return c.start(ctx, gate(m, layer, args))
}

// Select makes a mask of scores.
func (c *Context) Select(ctx context.Context, args *SelectArgs) (Stats, error) {
	return c.run(ctx, selection(args))
}

// StartSelect is Select without waiting.
func (c *Context) StartSelect(ctx context.Context, args *SelectArgs) (*Ticket, error) {
	return c.start(ctx, selection(args))
}

// Attention is block-sparse attention with the caller's mask, or dense attention.
func (c *Context) Attention(ctx context.Context, args *AttentionArgs) (Stats, error) {
	return c.run(ctx, attention(args))
}

// StartAttention is Attention without waiting.
func (c *Context) StartAttention(ctx context.Context, args *AttentionArgs) (*Ticket, error) {
	return c.start(ctx, attention(args))
}

// PrefillWorkspace returns the bytes of workspace that a prefill takes beyond its tensors. It computes nothing else and
// does not look at the tensors' memory.
func (c *Context) PrefillWorkspace(m *Model, args *PrefillArgs) (uint64, error) {
	var k call
	defer k.finish()
	ctx, model := k.context(c), k.model(m)
	desc := k.prefillDesc(args)
	if k.err != nil {
		return 0, k.err
	}
	r := C.seer_go_prefill_workspace(ctx, model, desc)
	return uint64(r.value), failure(r)
}

// operation is a compute call before it is made. prepare turns its arguments into C's, with every slice pinned, and
// returns what submits them.
type operation struct {
	progress func(done, total uint64)
	stream   Stream
	cache    *GateCache
	prepare  func(k *call) submitFunc
}

type submitFunc func(*C.seer_context, C.seer_go_submit) C.seer_go_result

func (k *call) prefillDesc(args *PrefillArgs) *C.seer_prefill_desc {
	if args == nil {
		return nil
	}
	return &C.seer_prefill_desc{
		struct_size:   C.uint32_t(unsafe.Sizeof(C.seer_prefill_desc{})),
		q:             k.tensor("q", &args.Q),
		k:             k.tensor("k", &args.K),
		v:             k.tensor("v", &args.V),
		out:           k.tensor("out", &args.Out),
		lse:           k.tensor("lse", &args.LSE),
		scores:        k.tensor("scores", &args.Scores),
		mask:          k.tensor("mask", &args.Mask),
		sequences:     k.sequences(args.Sequences),
		_select:       k.selection(args.Select),
		rope:          k.rope("rope", args.Rope),
		softmax_scale: C.double(args.SoftmaxScale),
		cache:         k.cache(args.Cache),
		total_len:     C.int64_t(args.TotalLen),
	}
}

func prefill(m *Model, layer int, args *PrefillArgs) (op operation) {
	if args != nil {
		op.progress, op.stream, op.cache = args.Progress, args.Stream, args.Cache
	}
	op.prepare = func(k *call) submitFunc {
		model, number, desc := k.model(m), k.int32("layer", layer), k.prefillDesc(args)
		return func(c *C.seer_context, s C.seer_go_submit) C.seer_go_result {
			return C.seer_go_prefill(c, model, number, desc, s)
		}
	}
	return op
}

func gate(m *Model, layer int, args *GateArgs) (op operation) {
	if args != nil {
		op.progress, op.stream, op.cache = args.Progress, args.Stream, args.Cache
	}
	op.prepare = func(k *call) submitFunc {
		model, number := k.model(m), k.int32("layer", layer)
		var desc *C.seer_gate_desc
		if args != nil {
			desc = &C.seer_gate_desc{
				struct_size: C.uint32_t(unsafe.Sizeof(C.seer_gate_desc{})),
				q:           k.tensor("q", &args.Q),
				k:           k.tensor("k", &args.K),
				scores:      k.tensor("scores", &args.Scores),
				mask:        k.tensor("mask", &args.Mask),
				sequences:   k.sequences(args.Sequences),
				_select:     k.selection(args.Select),
				rope:        k.rope("rope", args.Rope),
				cache:       k.cache(args.Cache),
				total_len:   C.int64_t(args.TotalLen),
			}
			if args.Logits {
				desc.flags = C.SEER_GATE_LOGITS
			}
		}
		return func(c *C.seer_context, s C.seer_go_submit) C.seer_go_result {
			return C.seer_go_gate(c, model, number, desc, s)
		}
	}
	return op
}

func selection(args *SelectArgs) (op operation) {
	if args != nil {
		op.progress, op.stream = args.Progress, args.Stream
	}
	op.prepare = func(k *call) submitFunc {
		var desc *C.seer_select_desc
		if args != nil {
			desc = &C.seer_select_desc{
				struct_size: C.uint32_t(unsafe.Sizeof(C.seer_select_desc{})),
				scores:      k.tensor("scores", &args.Scores),
				mask:        k.tensor("mask", &args.Mask),
				sequences:   k.sequences(args.Sequences),
				q_len:       C.int64_t(args.QLen),
				k_len:       C.int64_t(args.KLen),
				block_size:  k.int32("block_size", args.BlockSize),
				_select:     k.selection(args.Select),
				total_len:   C.int64_t(args.TotalLen),
			}
		}
		return func(c *C.seer_context, s C.seer_go_submit) C.seer_go_result { return C.seer_go_select(c, desc, s) }
	}
	return op
}

func attention(args *AttentionArgs) (op operation) {
	if args != nil {
		op.progress, op.stream = args.Progress, args.Stream
	}
	op.prepare = func(k *call) submitFunc {
		var desc *C.seer_attention_desc
		if args != nil {
			desc = &C.seer_attention_desc{
				struct_size:   C.uint32_t(unsafe.Sizeof(C.seer_attention_desc{})),
				q:             k.tensor("q", &args.Q),
				k:             k.tensor("k", &args.K),
				v:             k.tensor("v", &args.V),
				out:           k.tensor("out", &args.Out),
				lse:           k.tensor("lse", &args.LSE),
				mask:          k.tensor("mask", &args.Mask),
				sequences:     k.sequences(args.Sequences),
				rope:          k.rope("rope", args.Rope),
				softmax_scale: C.double(args.SoftmaxScale),
				block_size:    k.int32("block_size", args.BlockSize),
			}
		}
		return func(c *C.seer_context, s C.seer_go_submit) C.seer_go_result { return C.seer_go_attention(c, desc, s) }
	}
	return op
}

// submit hands the operation to the library, which reads its desc before returning and its tensors until the ticket is
// done: k must not finish before.
func (c *Context) submit(ctx context.Context, k *call, op operation) (*C.seer_context, C.seer_ticket, error) {
	p := k.context(c)
	k.begin(ctx)
	send := op.prepare(k)
	s := C.seer_go_submit{cancel: k.watch(), progress: k.report(op.progress), stream: C.uintptr_t(op.stream.cuda)}
	if op.stream.used {
		s.use_stream = 1
	}
	if k.err != nil {
		return nil, 0, k.err
	}
	if op.cache != nil {
		op.cache.mu.Lock()
		defer op.cache.mu.Unlock()
	}
	r := send(p, s)
	return p, C.seer_ticket(r.value), k.outcome(r)
}

func (c *Context) run(ctx context.Context, op operation) (Stats, error) {
	k := new(call)
	p, ticket, err := c.submit(ctx, k, op)
	if err != nil {
		k.finish()
		return Stats{}, err
	}
	stats, err := k.wait(p, ticket)
	reported := k.progress
	k.finish()
	runtime.KeepAlive(c)
	reported.raise()
	return stats, err
}

// wait waits for the work of a ticket.
func (k *call) wait(p *C.seer_context, ticket C.seer_ticket) (Stats, error) {
	stats := new(C.seer_stats)
	if err := k.outcome(C.seer_go_finish(p, ticket, stats)); err != nil {
		return Stats{}, err
	}
	return statsOf(stats), nil
}
