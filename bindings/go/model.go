package seerattn

// #include "shim.h"
import "C"

import (
	"context"
	"runtime"
	"unsafe"
)

// Model is the gate weights of a model's layers. It is immutable, and usable with every context of its device.
type Model struct{ h handle }

// LoadOptions say what of a gate folder to load and how. The zero value loads all of it.
type LoadOptions struct {
	FirstLayer, LayerCount   int    // LayerCount 0 = all from FirstLayer on
	FirstKVHead, KVHeadCount int    // a tensor-parallel rank's share; KVHeadCount 0 = all from FirstKVHead on
	MaxFileBytes             uint64 // per file; 0 = 16 GiB
	SafetensorsOnly          bool   // never open a .pth
	// Progress hears of bytes read, as in [PrefillArgs].
	Progress func(done, total uint64)
}

// Pool is a set of poolings of a gate, concatenated on the channel axis always in the order max, min, average.
type Pool int32

// The poolings, to be combined by |.
const (
	PoolMax Pool = C.SEER_POOL_MAX
	PoolMin Pool = C.SEER_POOL_MIN
	PoolAvg Pool = C.SEER_POOL_AVG
)

// GateConfig describes a model's gates.
type GateConfig struct {
	Layers      int // how many; of a model loaded in part, those loaded
	QHeads      int
	KVHeads     int
	HeadDim     int
	GateDim     int
	BlockSize   int // 32, 64 or 128
	QPool       Pool
	KPool       Pool
	ForceDouble bool       // WQ exists even where the single form would do
	FirstLayer  int        // number of the first one: calls name layers FirstLayer .. FirstLayer+Layers-1
	Rope        Rope       // of the model. RopeTheta or RopeInvFreq; of HeadDim channels
	GateRope    Rope       // of the gate, of GateDim channels. RopeDefault: as Rope
	Select      SelectSpec // what SelectModel means; SelectModel here = threshold 0
}

// GateWeights are the weights of a layer: tensors over slices, F32, F16 or BF16.
type GateWeights struct {
	WQ Tensor // [QHeads, HeadDim*|QPool|, GateDim]; absent in the single form
	WK Tensor // [KVHeads, HeadDim*|KPool|, GateDim]; [QHeads, ...] in the single form
}

// LoadDir loads a folder in the style of Hugging Face: config.json with attn_gate_weights.safetensors, else .pth, else
// the gates inside the model's own .safetensors.
func (c *Context) LoadDir(ctx context.Context, dir string, options LoadOptions) (*Model, error) {
	return c.load(ctx, options, func(k *call) loadFunc {
		path := k.text("dir", dir)
		return func(p *C.seer_context, params *C.seer_load_params, progress C.uintptr_t) C.seer_go_result {
			return C.seer_go_model_load_dir(p, path, params, progress)
		}
	})
}

// LoadMemory does the same from memory: the bytes of config.json and those of a .safetensors or .pth.
func (c *Context) LoadMemory(ctx context.Context, config, weights []byte, options LoadOptions) (*Model, error) {
	return c.load(ctx, options, func(k *call) loadFunc {
		configData, weightsData := (*C.uint8_t)(pinned(k, config)), (*C.uint8_t)(pinned(k, weights))
		return func(p *C.seer_context, params *C.seer_load_params, progress C.uintptr_t) C.seer_go_result {
			return C.seer_go_model_load_memory(p, configData, C.uint64_t(len(config)), weightsData,
				C.uint64_t(len(weights)), params, progress)
		}
	})
}

type loadFunc func(*C.seer_context, *C.seer_load_params, C.uintptr_t) C.seer_go_result

func (c *Context) load(ctx context.Context, options LoadOptions, prepare func(*call) loadFunc) (*Model, error) {
	var k call
	defer func() {
		reported := k.progress
		k.finish()
		reported.raise()
	}()
	p := k.context(c)
	k.begin(ctx)
	load := prepare(&k)
	params := &C.seer_load_params{
		struct_size:    C.uint32_t(unsafe.Sizeof(C.seer_load_params{})),
		first_layer:    k.int32("options.FirstLayer", options.FirstLayer),
		layer_count:    k.int32("options.LayerCount", options.LayerCount),
		first_kv_head:  k.int32("options.FirstKVHead", options.FirstKVHead),
		kv_head_count:  k.int32("options.KVHeadCount", options.KVHeadCount),
		max_file_bytes: C.uint64_t(options.MaxFileBytes),
		cancel:         k.watch(),
	}
	if options.SafetensorsOnly {
		params.flags = C.SEER_LOAD_SAFETENSORS_ONLY
	}
	progress := k.report(options.Progress)
	if k.err != nil {
		return nil, k.err
	}
	r := load(p, params, progress)
	if err := k.outcome(r); err != nil {
		return nil, err
	}
	return newModel(r), nil
}

// CreateModel makes a model of raw arrays, which it copies: layers[i] are the weights of layer FirstLayer+i. config.Layers
// is their number, or 0.
func (c *Context) CreateModel(config GateConfig, layers []GateWeights) (*Model, error) {
	var k call
	defer k.finish()
	p := k.context(c)
	if config.Layers != 0 && config.Layers != len(layers) {
		k.fail(ErrInvalidArgument, "config.layers is %d, but the weights are of %d layers", config.Layers, len(layers))
	}
	in := &C.seer_gate_config{
		struct_size: C.uint32_t(unsafe.Sizeof(C.seer_gate_config{})),
		layers:      k.int32("config.layers", len(layers)),
		q_heads:     k.int32("config.q_heads", config.QHeads),
		kv_heads:    k.int32("config.kv_heads", config.KVHeads),
		head_dim:    k.int32("config.head_dim", config.HeadDim),
		gate_dim:    k.int32("config.gate_dim", config.GateDim),
		block_size:  k.int32("config.block_size", config.BlockSize),
		q_pool:      C.int32_t(config.QPool),
		k_pool:      C.int32_t(config.KPool),
		first_layer: k.int32("config.first_layer", config.FirstLayer),
		rope:        k.rope("config.rope", config.Rope),
		gate_rope:   k.rope("config.gate_rope", config.GateRope),
		_select:     k.selection(config.Select),
	}
	if config.ForceDouble {
		in.force_double = 1
	}
	weights := make([]C.seer_gate_weights, len(layers)+1) // never empty: its address is taken
	for i := range layers {
		weights[i].struct_size = C.uint32_t(unsafe.Sizeof(weights[i]))
		weights[i].wq = k.tensor("wq", &layers[i].WQ)
		weights[i].wk = k.tensor("wk", &layers[i].WK)
	}
	if k.err != nil {
		return nil, k.err
	}
	r := C.seer_go_model_create(p, in, &weights[0])
	if err := failure(r); err != nil {
		return nil, err
	}
	return newModel(r), nil
}

func newModel(r C.seer_go_result) *Model {
	m := &Model{handle{ptr: r.handle, release: func(p unsafe.Pointer) { C.seer_model_release((*C.seer_model)(p)) }}}
	runtime.SetFinalizer(m, (*Model).finalize)
	return m
}

func (m *Model) finalize() { m.h.close() }

// Close gives the model back; calls in flight keep it. Closing again does nothing. The error is always nil.
func (m *Model) Close() error {
	m.handle().close()
	return nil
}

func (m *Model) handle() *handle {
	if m == nil {
		return nil
	}
	return &m.h
}

// Save writes dir/config.json and dir/attn_gate_weights.safetensors. Each file is complete or absent, whatever happens.
// dir must exist.
func (m *Model) Save(dir string) error {
	var k call
	defer k.finish()
	model, path := k.model(m), k.text("dir", dir)
	if k.err != nil {
		return k.err
	}
	return failure(C.seer_go_model_save(model, path))
}

// Config describes the model. What it returns is the caller's.
func (m *Model) Config() (GateConfig, error) {
	var k call
	defer k.finish()
	model := k.model(m)
	if k.err != nil {
		return GateConfig{}, k.err
	}
	out := &C.seer_gate_config{struct_size: C.uint32_t(unsafe.Sizeof(C.seer_gate_config{}))}
	if err := failure(C.seer_go_model_config(model, out)); err != nil {
		return GateConfig{}, err
	}
	return GateConfig{
		Layers:      int(out.layers),
		QHeads:      int(out.q_heads),
		KVHeads:     int(out.kv_heads),
		HeadDim:     int(out.head_dim),
		GateDim:     int(out.gate_dim),
		BlockSize:   int(out.block_size),
		QPool:       Pool(out.q_pool),
		KPool:       Pool(out.k_pool),
		ForceDouble: out.force_double != 0,
		FirstLayer:  int(out.first_layer),
		Rope:        ropeOf(&out.rope),
		GateRope:    ropeOf(&out.gate_rope),
		Select:      selectSpec(&out._select),
	}, nil
}
