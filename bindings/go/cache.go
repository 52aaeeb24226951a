package seerattn

// #include "shim.h"
import "C"

import (
	"runtime"
	"sync"
	"unsafe"
)

// GateCache holds, per layer of a model and sequence, the gate's K vector of each complete block, for prompts that come
// in chunks: a call that names it pools only the blocks it lacks, then adds them. Keys themselves stay with the caller:
// each call passes all L. It serves calls of its context and model whose chunk it does not cover yet: truncate it to run
// a chunk again. Work that fails or is cancelled leaves it as it was.
type GateCache struct {
	h  handle
	mu sync.Mutex // the library takes one call at a time; held while work is submitted, not while it runs
}

// NewGateCache makes a cache for sequences (B of the calls it will serve; 0 = 1) of at most maxTokens each.
func (c *Context) NewGateCache(m *Model, sequences, maxTokens int) (*GateCache, error) {
	var k call
	defer k.finish()
	p, model := k.context(c), k.model(m)
	params := &C.seer_gate_cache_params{
		struct_size: C.uint32_t(unsafe.Sizeof(C.seer_gate_cache_params{})),
		sequences:   k.int32("sequences", sequences),
		max_tokens:  C.int64_t(maxTokens),
	}
	if k.err != nil {
		return nil, k.err
	}
	r := C.seer_go_gate_cache_create(p, model, params)
	if err := failure(r); err != nil {
		return nil, err
	}
	release := func(p unsafe.Pointer) { C.seer_gate_cache_release((*C.seer_gate_cache)(p)) }
	cache := &GateCache{h: handle{ptr: r.handle, release: release}}
	runtime.SetFinalizer(cache, (*GateCache).finalize)
	return cache, nil
}

func (g *GateCache) finalize() { g.h.close() }

// Close gives the cache back; calls in flight keep it. Closing again does nothing. The error is always nil.
func (g *GateCache) Close() error {
	g.handle().close()
	return nil
}

func (g *GateCache) handle() *handle {
	if g == nil {
		return nil
	}
	return &g.h
}

func (k *call) cache(g *GateCache) *C.seer_gate_cache {
	return (*C.seer_gate_cache)(k.borrow("cache", g.handle()))
}

// Len returns the tokens that the cache covers, a multiple of the block size, submitted work included.
func (g *GateCache) Len(layer, sequence int) (int, error) {
	var k call
	defer k.finish()
	cache, l, s := k.cache(g), k.int32("layer", layer), k.int32("sequence", sequence)
	if k.err != nil {
		return 0, k.err
	}
	if g != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
	}
	r := C.seer_go_gate_cache_length(cache, l, s)
	return int(r.value), failure(r)
}

// Truncate forgets what lies beyond tokens (rounded down to blocks), in all layers; 0 = everything. sequence -1 = all.
func (g *GateCache) Truncate(sequence, tokens int) error {
	var k call
	defer k.finish()
	cache, s := k.cache(g), k.int32("sequence", sequence)
	if k.err != nil {
		return k.err
	}
	if g != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
	}
	return failure(C.seer_go_gate_cache_truncate(cache, s, C.int64_t(tokens)))
}
