package seerattn

// #include "shim.h"
import "C"

import "unsafe"

// SelectMethod is a way to choose blocks.
type SelectMethod int32

// The methods.
const (
	SelectModel     SelectMethod = C.SEER_SELECT_MODEL     // as the model's config.json says
	SelectThreshold SelectMethod = C.SEER_SELECT_THRESHOLD // probability > Threshold
	SelectRatio     SelectMethod = C.SEER_SELECT_RATIO     // a share of the causal triangle
	SelectBudget    SelectMethod = C.SEER_SELECT_BUDGET    // a number of tokens per row
	SelectAll       SelectMethod = C.SEER_SELECT_ALL       // every causal block: dense, through the sparse path
)

// SelectSpec says how blocks are chosen. A row that would keep nothing keeps its diagonal block.
type SelectSpec struct {
	Method SelectMethod
	// LastDenseRows is the number of block rows at the end that keep everything: 0 = the model's (2 without a model),
	// -1 = none.
	LastDenseRows int
	Threshold     float64 // SelectThreshold: 0 to 1; typical 5e-4 to 5e-3 at 32k to 128k tokens
	Ratio         float64 // SelectRatio r in (0, 1]: per row the top max(1, floor((1 - sqrt(1-r)) nK)) blocks
	TokenBudget   int     // SelectBudget: per row the top max(1, TokenBudget/P) blocks
	KeepDiagonal  bool    // also each row's own block
	KeepFirst     bool    // also key block 0
}

func selectSpec(in *C.seer_select_spec) SelectSpec {
	return SelectSpec{
		Method:        SelectMethod(in.method),
		LastDenseRows: int(in.last_dense_rows),
		Threshold:     float64(in.threshold),
		Ratio:         float64(in.ratio),
		TokenBudget:   int(in.token_budget),
		KeepDiagonal:  in.flags&C.SEER_SELECT_KEEP_DIAGONAL != 0,
		KeepFirst:     in.flags&C.SEER_SELECT_KEEP_FIRST != 0,
	}
}

// RopeKind is a kind of rotary position embedding.
type RopeKind int32

// The kinds.
const (
	RopeDefault RopeKind = C.SEER_ROPE_DEFAULT  // the model's in prefill and gate; none in attention
	RopeNone    RopeKind = C.SEER_ROPE_NONE     // q and k are used as they are
	RopeTheta   RopeKind = C.SEER_ROPE_THETA    // plain RoPE of base Theta
	RopeInvFreq RopeKind = C.SEER_ROPE_INV_FREQ // InvFreq: covers every scaling
)

// Rope is a rotary position embedding, half-rotation layout.
type Rope struct {
	Kind             RopeKind
	Theta            float64   // RopeTheta: base, e.g. 10000
	AttentionScaling float64   // factor on cos and sin; 0 = 1
	InvFreq          []float32 // RopeInvFreq: inverse frequencies, half as many as the channels it rotates
}

func ropeOf(in *C.seer_rope) Rope {
	r := Rope{
		Kind:             RopeKind(in.kind),
		Theta:            float64(in.theta),
		AttentionScaling: float64(in.attention_scaling),
	}
	if in.inv_freq_count > 0 {
		r.InvFreq = append(r.InvFreq, unsafe.Slice((*float32)(in.inv_freq), in.inv_freq_count)...)
	}
	return r
}

// Sequences describe a packed batch: offsets of its sequences in tokens, one more than there are sequences: 0, rising,
// ending at T (TK). Each sequence behaves as if it ran alone. The zero value means not packed.
type Sequences struct {
	Q []int32
	K []int32 // nil = as Q
}

// Stream is where GPU work is enqueued. The zero value is the context's own stream.
type Stream struct {
	used bool
	cuda uintptr
}

// CUDAStream is a stream of CUDA; 0 is one too, the default stream.
func CUDAStream(stream uintptr) Stream { return Stream{used: true, cuda: stream} }

// Stats are the statistics of a call.
type Stats struct {
	BlocksKept     uint64 // over batch, heads and rows, of calls that select; 0 in Attention
	BlocksCausal   uint64 // of the causal triangle
	FallbackRows   uint64 // rows that would have kept nothing and kept their diagonal block
	WorkspaceBytes uint64
	DeviceNs       uint64 // whole call; the stages below need not add up to it
	GateNs         uint64 // pool, project, score, select
	AttendNs       uint64
}

// Density is the share of the causal blocks that were kept, 0 where nothing was selected.
func (s Stats) Density() float64 {
	if s.BlocksCausal == 0 {
		return 0
	}
	return float64(s.BlocksKept) / float64(s.BlocksCausal)
}

func statsOf(in *C.seer_stats) Stats {
	return Stats{
		BlocksKept:     uint64(in.blocks_kept),
		BlocksCausal:   uint64(in.blocks_causal),
		FallbackRows:   uint64(in.fallback_rows),
		WorkspaceBytes: uint64(in.workspace_bytes),
		DeviceNs:       uint64(in.device_ns),
		GateNs:         uint64(in.gate_ns),
		AttendNs:       uint64(in.attend_ns),
	}
}
