package seerattn_test

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"example.com/seerattn"
)

var background = context.Background()

func TestUseAfterClose(t *testing.T) {
	dev := open(t, seerattn.Options{})
	c := loadGolden(t, goldenDir(t, "one-block"))
	model := loadDir(t, dev, c.dir)
	cache, err := dev.NewGateCache(model, 1, 1024)
	check(t, err)
	buffer, err := dev.NewBuffer(1 << 20)
	check(t, err)
	args := &seerattn.PrefillArgs{Q: c.q, K: c.k, V: c.v, Out: seerattn.NewTensor(seerattn.BF16, c.q.Shape()...)}
	for _, closer := range []interface{ Close() error }{cache, buffer} {
		check(t, closer.Close())
		check(t, closer.Close()) // again: nothing
	}

	const words = "no live handle"
	_, err = cache.Len(0, 0)
	expectError(t, err, seerattn.ErrHandle, "cache is "+words)
	expectError(t, cache.Truncate(-1, 0), seerattn.ErrHandle, words)
	withCache := *args
	withCache.Cache = cache
	_, err = dev.Prefill(background, model, c.Layer, &withCache)
	expectError(t, err, seerattn.ErrHandle, "cache is "+words)
	expectError(t, seerattn.WriteBuffer(buffer, 0, []float32{1}), seerattn.ErrHandle, "buffer is "+words)
	expectError(t, seerattn.ReadBuffer(buffer, 0, []float32{1}), seerattn.ErrHandle, words)
	_, err = buffer.Address()
	expectError(t, err, seerattn.ErrHandle, words)
	inBuffer := *args
	inBuffer.K = buffer.Tensor(seerattn.BF16, 0, c.k.Shape()...)
	_, err = dev.Prefill(background, model, c.Layer, &inBuffer)
	expectError(t, err, seerattn.ErrHandle, "k is "+words)

	check(t, model.Close())
	_, err = model.Config()
	expectError(t, err, seerattn.ErrHandle, "model is "+words)
	expectError(t, model.Save(t.TempDir()), seerattn.ErrHandle, words)
	_, err = dev.Prefill(background, model, c.Layer, args)
	expectError(t, err, seerattn.ErrHandle, "model is "+words)
	_, err = dev.StartPrefill(background, model, c.Layer, args)
	expectError(t, err, seerattn.ErrHandle, words)
	_, err = dev.NewGateCache(model, 1, 64)
	expectError(t, err, seerattn.ErrHandle, words)

	check(t, dev.Close())
	check(t, dev.Close())
	_, err = dev.Info()
	expectError(t, err, seerattn.ErrHandle, "ctx is "+words)
	_, err = dev.LoadDir(background, c.dir, seerattn.LoadOptions{})
	expectError(t, err, seerattn.ErrHandle, words)
	_, err = dev.NewBuffer(1)
	expectError(t, err, seerattn.ErrHandle, words)
	_, err = dev.Attention(background, light())
	expectError(t, err, seerattn.ErrHandle, words)
	_, err = dev.StartAttention(background, light())
	expectError(t, err, seerattn.ErrHandle, words)
	expectError(t, dev.Wait(background), seerattn.ErrHandle, words)
}

func TestNil(t *testing.T) {
	dev := open(t, seerattn.Options{})
	c := loadGolden(t, goldenDir(t, "one-block"))
	model := loadDir(t, dev, c.dir)
	args := &seerattn.PrefillArgs{Q: c.q, K: c.k, V: c.v, Out: seerattn.NewTensor(seerattn.BF16, c.q.Shape()...)}
	var (
		noContext *seerattn.Context
		noModel   *seerattn.Model
		noBuffer  *seerattn.Buffer
		noCache   *seerattn.GateCache
		noTicket  *seerattn.Ticket
	)
	calls := map[string]func() error{
		"ctx is NULL":   func() error { _, err := noContext.Prefill(background, model, 0, args); return err },
		"model is NULL": func() error { _, err := dev.Prefill(background, noModel, 0, args); return err },
		"desc is NULL":  func() error { _, err := dev.Prefill(background, model, 0, nil); return err },
		"context.Context is nil": func() error {
			expectError(t, dev.Wait(nil), seerattn.ErrInvalidArgument, "context.Context is nil") // on purpose
			_, err := dev.Prefill(nil, model, 0, args)                                           // on purpose
			return err
		},
		"buffer is NULL":  func() error { return seerattn.WriteBuffer(noBuffer, 0, []float32{1}) },
		"cache is NULL":   func() error { _, err := noCache.Len(0, 0); return err },
		"ticket is nil":   func() error { _, err := noTicket.Wait(); return err },
		"q is absent":     func() error { _, err := dev.Attention(background, &seerattn.AttentionArgs{}); return err },
		"config_json is ": func() error { _, err := dev.LoadMemory(background, nil, nil, seerattn.LoadOptions{}); return err },
		"q.data is NULL": func() error {
			a := *light()
			a.Q = seerattn.TensorOf[float32](nil, 1, 128, 2, 64)
			_, err := dev.Attention(background, &a)
			return err
		},
	}
	for words, call := range calls {
		expectError(t, call(), seerattn.ErrInvalidArgument, words)
	}
	_, err := dev.Gate(background, model, 0, nil)
	expectError(t, err, seerattn.ErrInvalidArgument, "desc is NULL")
	_, err = dev.Select(background, nil)
	expectError(t, err, seerattn.ErrInvalidArgument, "desc is NULL")
	_, err = dev.Attention(background, nil)
	expectError(t, err, seerattn.ErrInvalidArgument, "desc is NULL")
	_, err = dev.PrefillWorkspace(model, nil)
	expectError(t, err, seerattn.ErrInvalidArgument, "desc is NULL")
	_, err = noContext.Info()
	expectError(t, err, seerattn.ErrInvalidArgument, "ctx is NULL")
	_, err = noModel.Config()
	expectError(t, err, seerattn.ErrInvalidArgument, "model is NULL")
	_, err = new(seerattn.Context).Info()
	expectError(t, err, seerattn.ErrInvalidArgument, "ctx is NULL")
	a := light()
	a.K = noBuffer.Tensor(seerattn.F32, 0, 1, 128, 1, 64)
	_, err = dev.Attention(background, a)
	expectError(t, err, seerattn.ErrInvalidArgument, "k is NULL")
	for _, closer := range []interface{ Close() error }{noContext, noModel, noBuffer, noCache, new(seerattn.Context)} {
		check(t, closer.Close())
	}
}

// The same words as in C: the library's own.
func TestBadTensors(t *testing.T) {
	dev := open(t, seerattn.Options{})
	f32 := func(count int, shape ...int) seerattn.Tensor {
		return seerattn.TensorOf(make([]float32, count), shape...)
	}
	overlapping := make([]float32, 128*2*64)
	for _, bad := range []struct {
		status seerattn.Status
		text   string
		change func(a *seerattn.AttentionArgs)
	}{
		{seerattn.ErrOutOfBounds, "q reaches over 65536 bytes from its first element; its memory has 65532",
			func(a *seerattn.AttentionArgs) { a.Q = f32(128*2*64-1, 1, 128, 2, 64) }},
		{seerattn.ErrOutOfBounds, "out reaches over", func(a *seerattn.AttentionArgs) { a.Out = f32(64, 1, 128, 2, 64) }},
		{seerattn.ErrOutOfBounds, "k reaches over", func(a *seerattn.AttentionArgs) {
			a.K = f32(128*64, 1, 128, 1, 64).Strided(128*64, 65, 64, 1)
		}},
		{seerattn.ErrOutOfBounds, "q reaches over 65536 bytes from its first element; its memory has 65532",
			func(a *seerattn.AttentionArgs) { a.Q = f32(3*128*2*64-1, 1, 3*128, 2, 64).Slice(1, 256, 384) }},
		{seerattn.ErrOutOfBounds, "q.offset is 131072; its memory has 4", func(a *seerattn.AttentionArgs) {
			a.Q = f32(1, 1, 3*128, 2, 64).Slice(1, 256, 384)
		}},
		{seerattn.ErrOutOfBounds, "q: a slice from 100 to 200 of 128", func(a *seerattn.AttentionArgs) { a.Q = a.Q.Slice(1, 100, 200) }},
		{seerattn.ErrOutOfBounds, "out: a tensor of shape", func(a *seerattn.AttentionArgs) {
			a.Out = seerattn.NewTensor(seerattn.F32, 1<<31-1, 1<<31-1, 1<<31-1, 1<<31-1)
		}},
		{seerattn.ErrDType, "out.dtype is bf16 but that of q is f32; they must be the same",
			func(a *seerattn.AttentionArgs) { a.Out = seerattn.NewTensor(seerattn.BF16, 1, 128, 2, 64) }},
		{seerattn.ErrDType, "q.dtype is u8; expected f32, f16 or bf16",
			func(a *seerattn.AttentionArgs) { a.Q = seerattn.TensorOf(make([]uint8, 128*2*64), 1, 128, 2, 64) }},
		{seerattn.ErrInvalidArgument, "q.dtype is 77", func(a *seerattn.AttentionArgs) { a.Q = seerattn.NewTensor(77, 1) }},
		{seerattn.ErrShape, "q has 3 dimensions", func(a *seerattn.AttentionArgs) { a.Q = f32(128*2*64, 128, 2, 64) }},
		{seerattn.ErrShape, "q.ndim is 5", func(a *seerattn.AttentionArgs) { a.Q = f32(128*2*64, 1, 1, 128, 2, 64) }},
		{seerattn.ErrShape, "q.shape[0] is -1", func(a *seerattn.AttentionArgs) { a.Q = f32(128*2*64, -1, 128, 2, 64) }},
		{seerattn.ErrShape, "q.shape[0] is 9223372036854775807",
			func(a *seerattn.AttentionArgs) { a.Q = f32(128*2*64, math.MaxInt, 128, 2, 64) }},
		{seerattn.ErrShape, "q: [0 1 1 2] is no permutation", func(a *seerattn.AttentionArgs) { a.Q = a.Q.Permute(0, 1, 1, 2) }},
		{seerattn.ErrShape, "q: a slice of dimension 4", func(a *seerattn.AttentionArgs) { a.Q = a.Q.Slice(4, 0, 1) }},
		{seerattn.ErrShape, "k has 64 channels", func(a *seerattn.AttentionArgs) {
			a.Q, a.Out = f32(128*2*32, 1, 128, 2, 32), f32(128*2*32, 1, 128, 2, 32)
		}},
		{seerattn.ErrStride, "q: 3 strides for 4 dimensions", func(a *seerattn.AttentionArgs) { a.Q = a.Q.Strided(1, 2, 3) }},
		{seerattn.ErrStride, "q.stride[1] is -1", func(a *seerattn.AttentionArgs) { a.Q = a.Q.Strided(1, -1, 64, 1) }},
		{seerattn.ErrStride, "the innermost stride must be 1", func(a *seerattn.AttentionArgs) { a.Q = a.Q.Strided(128*128, 128, 64, 2) }},
		{seerattn.ErrStride, "out overlaps itself", func(a *seerattn.AttentionArgs) { a.Out = a.Out.Strided(128*128, 64, 64, 1) }},
		{seerattn.ErrStride, "out overlaps the input q", func(a *seerattn.AttentionArgs) {
			a.Q = seerattn.TensorOf(overlapping, 1, 128, 2, 64)
			a.Out = a.Q
		}},
		{seerattn.ErrMemoryKind, "q.mem is 2", func(a *seerattn.AttentionArgs) {
			a.Q = seerattn.CUDATensor(seerattn.F32, 0x10000, 0, 1, 128, 2, 64)
		}},
		{seerattn.ErrMemoryKind, "q.mem is 3", func(a *seerattn.AttentionArgs) {
			a.Q = seerattn.VulkanTensor(seerattn.F32, 1, 1<<20, 1, 128, 2, 64)
		}},
		{seerattn.ErrUnsupported, "USE_STREAM", func(a *seerattn.AttentionArgs) { a.Stream = seerattn.CUDAStream(0) }},
		{seerattn.ErrInvalidArgument, "softmax_scale", func(a *seerattn.AttentionArgs) { a.SoftmaxScale = math.NaN() }},
		{seerattn.ErrInvalidArgument, "block_size is 48", func(a *seerattn.AttentionArgs) { a.BlockSize = 48 }},
		{seerattn.ErrInvalidArgument, "block_size is 4294967360; expected a number of 32 bits",
			func(a *seerattn.AttentionArgs) { a.BlockSize = 1<<32 + 64 }},
		{seerattn.ErrInvalidArgument, "sequences.k has 3 offsets and sequences.q 2",
			func(a *seerattn.AttentionArgs) {
				a.Sequences = seerattn.Sequences{Q: []int32{0, 128}, K: []int32{0, 64, 128}}
			}},
		{seerattn.ErrInvalidArgument, "count is 0 but its offsets", func(a *seerattn.AttentionArgs) { a.Sequences.Q = []int32{0} }},
		{seerattn.ErrInvalidArgument, "sequences.k has 1 offsets", func(a *seerattn.AttentionArgs) { a.Sequences.K = []int32{0} }},
		{seerattn.ErrInvalidArgument, "rope", func(a *seerattn.AttentionArgs) { a.Rope = seerattn.Rope{Kind: seerattn.RopeInvFreq} }},
	} {
		args := light()
		bad.change(args)
		_, err := dev.Attention(background, args)
		expectError(t, err, bad.status, bad.text)
		_, err = dev.StartAttention(background, args)
		expectError(t, err, bad.status, bad.text)
	}
	if x := seerattn.TensorOf(overlapping, 1, 128, 2, 64).Permute(0, 2, 1, 3); x.Bytes() != nil {
		t.Error("Bytes of a view that is not packed")
	}
	_, err := seerattn.Elements[uint32](seerattn.TensorOf(overlapping))
	expectError(t, err, seerattn.ErrDType, "the tensor is f32; expected b32")
	_, err = seerattn.Elements[float32](seerattn.TensorOf(overlapping).Slice(0, 1, 1<<40))
	expectError(t, err, seerattn.ErrOutOfBounds, "a slice from 1")
}

func TestBadModels(t *testing.T) {
	dev := open(t, seerattn.Options{})
	dir := goldenDir(t, "one-block")
	none := seerattn.LoadOptions{}
	load := func(dir string, options seerattn.LoadOptions) error {
		_, err := dev.LoadDir(background, dir, options)
		return err
	}
	expectError(t, load(filepath.Join(t.TempDir(), "nowhere"), none), seerattn.ErrIO, "nowhere")
	expectError(t, load(dir+"\x00/../elsewhere", none), seerattn.ErrInvalidArgument, "dir holds a NUL byte")
	expectError(t, load("", none), seerattn.ErrInvalidArgument, "dir is empty")
	expectError(t, load(dir, seerattn.LoadOptions{FirstLayer: 1 << 40}), seerattn.ErrInvalidArgument, "FirstLayer")
	expectError(t, load(dir, seerattn.LoadOptions{MaxFileBytes: 100}), seerattn.ErrFormat, "100")
	expectError(t, load(dir, seerattn.LoadOptions{SafetensorsOnly: true}), seerattn.ErrIO, "")

	config, err := os.ReadFile(filepath.Join(dir, "config.json"))
	check(t, err)
	_, err = dev.LoadMemory(background, config, []byte("neither of the two formats"), none)
	expectError(t, err, seerattn.ErrFormat, "")
	_, err = dev.LoadMemory(background, []byte("{"), []byte("x"), none)
	expectError(t, err, seerattn.ErrFormat, "")

	good := seerattn.GateConfig{
		QHeads: 2, KVHeads: 1, HeadDim: 64, GateDim: 64, BlockSize: 64, QPool: seerattn.PoolAvg, KPool: seerattn.PoolAvg,
		Rope: seerattn.Rope{Kind: seerattn.RopeTheta, Theta: 1e4},
	}
	weights := []seerattn.GateWeights{{WK: seerattn.NewTensor(seerattn.F32, 2, 64, 64)}}
	create := func(change func(*seerattn.GateConfig), weights []seerattn.GateWeights) error {
		config := good
		change(&config)
		_, err := dev.CreateModel(config, weights)
		return err
	}
	check(t, create(func(*seerattn.GateConfig) {}, weights))
	expectError(t, create(func(c *seerattn.GateConfig) { c.Layers = 2 }, weights), seerattn.ErrInvalidArgument,
		"config.layers is 2, but the weights are of 1")
	expectError(t, create(func(*seerattn.GateConfig) {}, nil), seerattn.ErrInvalidArgument, "layers")
	expectError(t, create(func(c *seerattn.GateConfig) { c.HeadDim = 1 << 33 }, weights), seerattn.ErrInvalidArgument, "head_dim")
	expectError(t, create(func(*seerattn.GateConfig) {}, make([]seerattn.GateWeights, 1)), seerattn.ErrModelMismatch, "wk is absent")
	weights[0].WK = seerattn.TensorOf(make([]float32, 100), 2, 64, 64)
	expectError(t, create(func(*seerattn.GateConfig) {}, weights), seerattn.ErrOutOfBounds, "wk")

	model := loadDir(t, dev, dir)
	_, err = dev.Prefill(background, model, 7, &seerattn.PrefillArgs{})
	expectError(t, err, seerattn.ErrInvalidArgument, "layer is 7; the model has layers 0 to 0")
	_, err = dev.Prefill(background, model, 1<<32, &seerattn.PrefillArgs{})
	expectError(t, err, seerattn.ErrInvalidArgument, "layer is 4294967296")
	expectError(t, model.Save(filepath.Join(t.TempDir(), "nowhere")), seerattn.ErrIO, "nowhere")
	_, err = dev.NewGateCache(model, 1<<40, 64)
	expectError(t, err, seerattn.ErrInvalidArgument, "sequences")
	_, err = dev.NewGateCache(model, 1, -1)
	expectError(t, err, seerattn.ErrInvalidArgument, "max_tokens")
}

func TestBadContexts(t *testing.T) {
	for _, bad := range []struct {
		options seerattn.Options
		status  seerattn.Status
		text    string
	}{
		{seerattn.Options{Backend: 9}, seerattn.ErrInvalidArgument, "backend is 9"},
		{seerattn.Options{Backend: seerattn.BackendCPU, Device: 5}, seerattn.ErrInvalidArgument, "5"},
		{seerattn.Options{Backend: seerattn.BackendCPU, Threads: -1}, seerattn.ErrInvalidArgument, "threads is -1"},
		{seerattn.Options{Backend: seerattn.BackendCPU, Threads: 1 << 32}, seerattn.ErrInvalidArgument, "Threads is 4294967296"},
		{seerattn.Options{LogLevel: 9}, seerattn.ErrInvalidArgument, "log_level is 9"},
	} {
		_, err := seerattn.Open(bad.options)
		expectError(t, err, bad.status, bad.text)
	}
	_, err := seerattn.ParseBackend("tpu")
	expectError(t, err, seerattn.ErrInvalidArgument, "tpu")
	_, err = seerattn.Devices(seerattn.BackendAuto)
	expectError(t, err, seerattn.ErrInvalidArgument, "backend is 0")

	dev := open(t, seerattn.Options{WorkspaceLimit: 1})
	_, err = dev.Attention(background, light())
	expectError(t, err, seerattn.ErrOutOfMemory, "")
	_, err = dev.NewBuffer(-1)
	expectError(t, err, seerattn.ErrInvalidArgument, "size is -1")
	buffer, err := dev.NewBuffer(16)
	check(t, err)
	expectError(t, seerattn.WriteBuffer(buffer, 8, make([]float32, 3)), seerattn.ErrOutOfBounds, "")
	expectError(t, seerattn.ReadBuffer(buffer, -4, make([]float32, 1)), seerattn.ErrOutOfBounds, "offset is -4")
	check(t, seerattn.WriteBuffer(buffer, 16, []float32{}))
}

// Closing while calls run, from any goroutine: each call ends as if before, or is told that the handle is gone.
func TestCloseDuringCalls(t *testing.T) {
	for i := 0; i < 20; i++ {
		dev := open(t, seerattn.Options{Threads: 1})
		buffer, err := dev.NewBuffer(4096)
		check(t, err)
		var calls sync.WaitGroup
		for g := 0; g < 4; g++ {
			calls.Add(1)
			go func() {
				defer calls.Done()
				for n := 0; n < 8; n++ {
					if _, err := dev.Attention(background, light()); err != nil {
						expectError(t, err, seerattn.ErrHandle, "ctx")
					}
					if err := seerattn.WriteBuffer(buffer, 0, make([]float32, 1024)); err != nil {
						expectError(t, err, seerattn.ErrHandle, "buffer")
					}
				}
			}()
		}
		time.Sleep(time.Duration(i) * 200 * time.Microsecond)
		check(t, buffer.Close())
		check(t, dev.Close())
		calls.Wait()
	}
}

// Finalizers are a net: what nobody closed is given back when it is collected.
func TestFinalizers(t *testing.T) {
	released := make(chan struct{})
	func() {
		handler := &recorder{}
		runtime.SetFinalizer(handler, func(*recorder) { close(released) })
		dev, err := seerattn.Open(seerattn.Options{Backend: seerattn.BackendCPU, Logger: handler.logger()})
		check(t, err)
		_, err = dev.NewBuffer(64)
		check(t, err)
	}()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		runtime.GC()
		select {
		case <-released: // the library let go of the logger, so the context is gone
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Error("a context that nobody holds was not released")
}

func TestErrorText(t *testing.T) {
	_, err := seerattn.ParseBackend("tpu")
	const want = `seerattn: backend is "tpu"; expected auto, cuda, vulkan or cpu (SEER_ERROR_INVALID_ARGUMENT)`
	if err.Error() != want {
		t.Errorf("%q; expected %q", err, want)
	}
	if errors.Is(err, seerattn.ErrShape) {
		t.Error("the error is of another status too")
	}
	var status seerattn.Status
	if !errors.As(err, &status) || status != seerattn.ErrInvalidArgument {
		t.Errorf("errors.As gives status %d", status)
	}
}
