package seerattn

// #include "shim.h"
import "C"

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"runtime/cgo"
	"strings"
	"sync"
	"unsafe"
)

// call is what one call of the library holds on to until its work is done: pinned slices, borrowed handles, the flag
// that cancels it, its callback. It gathers the first error of the arguments in err. finish lets go of everything.
type call struct {
	pinner   runtime.Pinner
	handles  []*handle
	ctx      context.Context
	cancel   *cancelFlag
	stop     func() bool // ends the watch over ctx
	progress *progress
	user     cgo.Handle // of progress
	err      error
}

func (k *call) finish() {
	if k.stop != nil {
		k.stop()
	}
	if k.cancel != nil {
		k.cancel.release()
	}
	if k.user != 0 {
		k.user.Delete()
	}
	k.pinner.Unpin()
	for _, h := range k.handles {
		h.put()
	}
	*k = call{}
}

func (k *call) fail(status Status, format string, values ...any) {
	if k.err == nil {
		k.err = &Error{Status: status, Detail: fmt.Sprintf(format, values...)}
	}
}

// begin ties the call to a context.Context. Nothing is started for one that has ended.
func (k *call) begin(ctx context.Context) {
	if k.err != nil {
		return
	}
	if ctx == nil {
		k.fail(ErrInvalidArgument, "the context.Context is nil")
		return
	}
	k.ctx = ctx
	if ctx.Err() != nil {
		k.err = cancelled(&Error{Status: ErrCancelled, Detail: "the context.Context had ended before the call"}, ctx)
	}
}

// watch makes the flag that the end of the call's context.Context triggers; NULL for one that never ends.
func (k *call) watch() *C.seer_cancel {
	if k.err != nil || k.ctx.Done() == nil {
		return nil
	}
	r := C.seer_go_cancel_create()
	if k.err = failure(r); k.err != nil {
		return nil
	}
	k.cancel = &cancelFlag{ptr: (*C.seer_cancel)(r.handle)}
	k.stop = context.AfterFunc(k.ctx, k.cancel.trigger)
	return k.cancel.ptr
}

// report makes the user data of a progress callback; 0 without one.
func (k *call) report(f func(done, total uint64)) C.uintptr_t {
	if k.err != nil || f == nil {
		return 0
	}
	k.progress = &progress{report: f}
	k.user = cgo.NewHandle(k.progress)
	return C.uintptr_t(k.user)
}

// outcome is the error of the call's work, nil if it went well.
func (k *call) outcome(r C.seer_go_result) error {
	if err := failure(r); err != nil {
		return cancelled(err, k.ctx)
	}
	return nil
}

// cancelFlag is a seer_cancel that a context.Context may trigger while the call it belongs to ends and releases it.
type cancelFlag struct {
	mu  sync.Mutex
	ptr *C.seer_cancel
}

func (f *cancelFlag) trigger() {
	f.mu.Lock()
	defer f.mu.Unlock()
	C.seer_cancel_trigger(f.ptr) // NULL is fine
}

func (f *cancelFlag) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	C.seer_cancel_release(f.ptr)
	f.ptr = nil
}

func (k *call) borrow(name string, h *handle) unsafe.Pointer {
	p, err := h.borrow(name)
	if err == nil {
		k.handles = append(k.handles, h)
	} else if k.err == nil {
		k.err = err
	}
	return p
}

// The names are those that the library gives these arguments in its texts.

func (k *call) context(c *Context) *C.seer_context {
	return (*C.seer_context)(k.borrow("ctx", c.handle()))
}
func (k *call) model(m *Model) *C.seer_model { return (*C.seer_model)(k.borrow("model", m.handle())) }

func (k *call) buffer(name string, b *Buffer) *C.seer_buffer {
	return (*C.seer_buffer)(k.borrow(name, b.handle()))
}

func (k *call) int32(name string, value int) C.int32_t {
	if value < math.MinInt32 || value > math.MaxInt32 {
		k.fail(ErrInvalidArgument, "%s is %d; expected a number of 32 bits", name, value)
		return 0
	}
	return C.int32_t(value)
}

// text is a C string.
func (k *call) text(name, value string) *C.char {
	bytes := make([]byte, len(value)+1)
	copy(bytes, value)
	if strings.IndexByte(value, 0) >= 0 {
		k.fail(ErrInvalidArgument, "%s holds a NUL byte", name)
	}
	return (*C.char)(unsafe.Pointer(&bytes[0]))
}

// pinned returns the address of a slice's elements, for structs that C reads; NULL if there are none.
func pinned[T any](k *call, values []T) *T {
	if cap(values) == 0 {
		return nil
	}
	p := unsafe.SliceData(values)
	k.pinner.Pin(p)
	return p
}

func (k *call) tensor(name string, t *Tensor) (out C.seer_tensor) {
	if t.err != nil {
		k.fail(t.err.Status, "%s: %s", name, t.err.Detail)
		return
	}
	if t.mem == C.SEER_MEM_NONE {
		return
	}
	out.mem = t.mem
	out.dtype = C.seer_dtype(t.dtype)
	out.ndim = k.int32(name+".ndim", t.ndim)
	out.offset, out.size = C.uint64_t(t.offset), C.uint64_t(t.size)
	for d := range t.shape {
		out.shape[d], out.stride[d] = C.int64_t(t.shape[d]), C.int64_t(t.stride[d])
	}
	switch t.mem {
	case C.SEER_MEM_HOST:
		if t.data != nil {
			k.pinner.Pin(t.data)
		}
		out.data = t.data
		// GPUs want aligned offsets, host memory does not. No pointer may be made to a slice's end.
		if t.offset < t.size {
			out.data = unsafe.Add(t.data, t.offset)
			out.size -= out.offset
			out.offset = 0
		}
	case C.SEER_MEM_CUDA:
		out.data = C.seer_go_pointer(C.uintptr_t(t.address))
	case C.SEER_MEM_VULKAN:
		out.vk_buffer = C.uint64_t(t.vkBuffer)
	case C.SEER_MEM_BUFFER:
		out.buffer = k.buffer(name, t.buffer)
	}
	return
}

func (k *call) sequences(s Sequences) (out C.seer_sequences) {
	if len(s.Q) == 0 && len(s.K) == 0 {
		return
	}
	if s.K != nil && len(s.K) != len(s.Q) {
		k.fail(ErrInvalidArgument, "sequences.k has %d offsets and sequences.q %d; expected as many", len(s.K), len(s.Q))
		return
	}
	out.q = (*C.int32_t)(pinned(k, s.Q))
	out.k = (*C.int32_t)(pinned(k, s.K))
	out.count = k.int32("sequences.count", len(s.Q)-1)
	return
}

func (k *call) selection(s SelectSpec) C.seer_select_spec {
	out := C.seer_select_spec{
		method:          C.seer_select_method(s.Method),
		last_dense_rows: k.int32("select.last_dense_rows", s.LastDenseRows),
		threshold:       C.double(s.Threshold),
		ratio:           C.double(s.Ratio),
		token_budget:    C.int64_t(s.TokenBudget),
	}
	if s.KeepDiagonal {
		out.flags |= C.SEER_SELECT_KEEP_DIAGONAL
	}
	if s.KeepFirst {
		out.flags |= C.SEER_SELECT_KEEP_FIRST
	}
	return out
}

func (k *call) rope(name string, r Rope) C.seer_rope {
	return C.seer_rope{
		kind:              C.seer_rope_kind(r.Kind),
		inv_freq_count:    C.uint32_t(k.int32(name+".inv_freq_count", len(r.InvFreq))),
		theta:             C.double(r.Theta),
		attention_scaling: C.double(r.AttentionScaling),
		inv_freq:          (*C.float)(pinned(k, r.InvFreq)),
	}
}
