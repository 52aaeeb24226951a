package seerattn_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"example.com/seerattn"
	"example.com/seerattn/internal/layout"
)

func prefill(t *testing.T, dev *seerattn.Context, model *seerattn.Model, c *golden) []byte {
	t.Helper()
	out := seerattn.NewTensor(seerattn.BF16, c.q.Shape()...)
	_, err := dev.Prefill(background, model, c.Layer, &seerattn.PrefillArgs{Q: c.q, K: c.k, V: c.v, Out: out})
	check(t, err)
	return out.Bytes()
}

// A model from memory, one that was saved and loaded, and one made of its arrays are the model of the folder.
func TestModels(t *testing.T) {
	dev := open(t, seerattn.Options{})
	for _, name := range []string{"llama-threshold", "double-gate", "qwen-yarn"} {
		t.Run(name, func(t *testing.T) {
			c := loadGolden(t, goldenDir(t, name))
			model := loadDir(t, dev, c.dir)
			want := prefill(t, dev, model, c)
			config, err := model.Config()
			check(t, err)
			if config.QHeads != c.heads || config.HeadDim != c.dim || config.BlockSize != c.Block || config.Layers == 0 {
				t.Errorf("configuration %+v", config)
			}

			configText, err := os.ReadFile(filepath.Join(c.dir, "config.json"))
			check(t, err)
			weights, err := os.ReadFile(filepath.Join(c.dir, "attn_gate_weights.pth"))
			check(t, err)
			again, err := dev.LoadMemory(background, configText, weights, seerattn.LoadOptions{})
			check(t, err)
			defer again.Close()
			if !bytes.Equal(prefill(t, dev, again, c), want) {
				t.Error("the model from memory is another")
			}

			dir := t.TempDir()
			check(t, model.Save(dir))
			saved := loadDir(t, dev, dir)
			if !bytes.Equal(prefill(t, dev, saved, c), want) {
				t.Error("the saved model is another")
			}
			if got, err := saved.Config(); err != nil || got.Layers != config.Layers || !reflect.DeepEqual(got.Select, config.Select) {
				t.Errorf("the saved model is %+v, %v; expected %+v", got, err, config)
			}

			made, err := dev.CreateModel(config, gateWeights(t, dir, config))
			check(t, err)
			defer made.Close()
			if !bytes.Equal(prefill(t, dev, made, c), want) {
				t.Error("the model of arrays is another")
			}
			config.Select.Ratio = 1 // which this method does not use
			if got, err := made.Config(); err != nil || !reflect.DeepEqual(got, config) {
				t.Errorf("the model of arrays is %+v, %v; expected %+v", got, err, config)
			}
		})
	}
}

func TestLoadParts(t *testing.T) {
	dev := open(t, seerattn.Options{})
	c := loadGolden(t, goldenDir(t, "llama-tail"))
	part, err := dev.LoadDir(background, c.dir, seerattn.LoadOptions{FirstLayer: c.Layer, LayerCount: 1})
	check(t, err)
	defer part.Close()
	if config, err := part.Config(); err != nil || config.Layers != 1 || config.FirstLayer != c.Layer {
		t.Errorf("%+v, %v", config, err)
	}
	if !bytes.Equal(prefill(t, dev, part, c), prefill(t, dev, loadDir(t, dev, c.dir), c)) {
		t.Error("a layer alone is another")
	}
	_, err = dev.Prefill(background, part, c.Layer-1, &seerattn.PrefillArgs{Q: c.q, K: c.k, V: c.v, Out: c.q})
	expectError(t, err, seerattn.ErrInvalidArgument, "layer")
}

// A tensor-parallel rank loads its KV heads and the query heads that read them.
func TestLoadShare(t *testing.T) {
	dev := open(t, seerattn.Options{})
	c := loadGolden(t, goldenDir(t, "double-gate"))
	whole := prefill(t, dev, loadDir(t, dev, c.dir), c)
	rank, err := dev.LoadDir(background, c.dir, seerattn.LoadOptions{FirstKVHead: 1, KVHeadCount: 1})
	check(t, err)
	defer rank.Close()
	config, err := rank.Config()
	check(t, err)
	if config.KVHeads != 1 || config.QHeads != c.heads/2 {
		t.Fatalf("%+v", config)
	}
	// The other rank's half of out stays as it is.
	out := seerattn.NewTensor(seerattn.BF16, c.q.Shape()...)
	copy(out.Bytes(), whole)
	half := out.Slice(2, c.heads/2, c.heads)
	_, err = dev.Prefill(background, rank, c.Layer, &seerattn.PrefillArgs{
		Q: c.q.Slice(2, c.heads/2, c.heads), K: c.k.Slice(2, 1, 2), V: c.v.Slice(2, 1, 2), Out: half,
	})
	check(t, err)
	if !bytes.Equal(out.Bytes(), whole) {
		t.Error("the rank computed something else")
	}
}

// Masks of bytes, scores, and the reference kernels say the same as masks of bits and the fast kernels.
func TestOptionalOutputs(t *testing.T) {
	c := loadGolden(t, goldenDir(t, "llama-threshold"))
	words := (c.nBlocks + 31) / 32
	bits := make([]uint32, c.batch*c.heads*c.nBlocks*words)
	for _, reference := range []bool{false, true} {
		dev := open(t, seerattn.Options{Backend: seerattn.BackendCPU, Reference: reference})
		if info, err := dev.Info(); err != nil || (info.Detail == "reference kernels") != reference {
			t.Errorf("reference %v: %+v, %v", reference, info, err)
		}
		model := loadDir(t, dev, c.dir)
		octets := make([]uint8, c.batch*c.heads*c.nBlocks*c.nBlocks)
		scores := make([]float32, len(octets))
		args := &seerattn.PrefillArgs{
			Q: c.q, K: c.k, V: c.v, Out: seerattn.NewTensor(seerattn.BF16, c.q.Shape()...),
			Scores: seerattn.TensorOf(scores, c.batch, c.heads, c.nBlocks, c.nBlocks),
			Mask:   seerattn.TensorOf(octets, c.batch, c.heads, c.nBlocks, c.nBlocks),
			Select: seerattn.SelectSpec{Method: seerattn.SelectThreshold, Threshold: 0.05, LastDenseRows: -1, KeepFirst: true},
		}
		stats, err := dev.Prefill(background, model, c.Layer, args)
		check(t, err)
		args.Mask = seerattn.TensorOf(bits, c.batch, c.heads, c.nBlocks, words)
		again, err := dev.Prefill(background, model, c.Layer, args)
		check(t, err)
		if again.BlocksKept != stats.BlocksKept || stats.Density() <= 0 || stats.Density() >= 1 {
			t.Errorf("%+v and %+v", stats, again)
		}
		for i, kept := range octets {
			row, j := i/c.nBlocks, i%c.nBlocks
			if kept != uint8(bits[row*words+j/32]>>(j%32)&1) {
				t.Fatalf("reference %v: block %d of row %d differs", reference, j, row)
			}
			if want := j == 0 || scores[i] > 0.05; want != (kept != 0) {
				t.Fatalf("reference %v: block %d of row %d, of score %g, kept %d", reference, j, row, scores[i], kept)
			}
		}
	}
}

// Chunks with a cache give what one call gives.
func TestChunks(t *testing.T) {
	dev := open(t, seerattn.Options{})
	c := loadGolden(t, goldenDir(t, "llama-tail"))
	model := loadDir(t, dev, c.dir)
	want := prefill(t, dev, model, c)
	cache, err := dev.NewGateCache(model, c.batch, c.tokens)
	check(t, err)
	defer cache.Close()
	run := func() []byte {
		out := seerattn.NewTensor(seerattn.BF16, c.q.Shape()...)
		for lo := 0; lo < c.tokens; lo += 320 {
			hi := min(lo+320, c.tokens)
			_, err := dev.Prefill(background, model, c.Layer, &seerattn.PrefillArgs{
				Q: c.q.Slice(1, lo, hi), K: c.k.Slice(1, 0, hi), V: c.v.Slice(1, 0, hi), Out: out.Slice(1, lo, hi),
				Cache: cache, TotalLen: c.tokens,
			})
			check(t, err)
		}
		return out.Bytes()
	}
	if !bytes.Equal(run(), want) {
		t.Error("chunks give another result")
	}
	length, err := cache.Len(c.Layer, 0)
	check(t, err)
	if length != c.tokens/c.Block*c.Block {
		t.Errorf("the cache covers %d of %d tokens", length, c.tokens)
	}
	_, err = dev.Prefill(background, model, c.Layer, &seerattn.PrefillArgs{
		Q: c.q, K: c.k, V: c.v, Out: seerattn.NewTensor(seerattn.BF16, c.q.Shape()...), Cache: cache,
	})
	expectError(t, err, seerattn.ErrCacheState, "cache")
	check(t, cache.Truncate(-1, 0))
	if !bytes.Equal(run(), want) {
		t.Error("chunks in a cache that was cleared give another result")
	}
}

// A cache that several goroutines use stays whole: each call is served or refused.
func TestCacheFromManyGoroutines(t *testing.T) {
	dev := open(t, seerattn.Options{})
	c := loadGolden(t, goldenDir(t, "one-block"))
	model := loadDir(t, dev, c.dir)
	cache, err := dev.NewGateCache(model, 1, 4096)
	check(t, err)
	defer cache.Close()
	done := make(chan int)
	for g := 0; g < 6; g++ {
		go func() {
			served := 0
			for i := 0; i < 20; i++ {
				ticket, err := dev.StartPrefill(background, model, c.Layer, &seerattn.PrefillArgs{
					Q: c.q, K: c.k, V: c.v, Out: seerattn.NewTensor(seerattn.BF16, c.q.Shape()...), Cache: cache,
				})
				if err != nil {
					expectError(t, err, seerattn.ErrCacheState, "cache")
				} else if _, err = ticket.Wait(); err == nil {
					served++
				}
				if _, err := cache.Len(c.Layer, 0); err != nil {
					t.Error(err)
				}
				if err := cache.Truncate(-1, 0); err != nil {
					t.Error(err)
				}
			}
			done <- served
		}()
	}
	total := 0
	for g := 0; g < 6; g++ {
		total += <-done
	}
	if total == 0 {
		t.Error("no call was served")
	}
}

func TestWorkspace(t *testing.T) {
	dev := open(t, seerattn.Options{})
	c := loadGolden(t, goldenDir(t, "llama-tail"))
	model := loadDir(t, dev, c.dir)
	args := &seerattn.PrefillArgs{Q: c.q, K: c.k, V: c.v, Out: seerattn.NewTensor(seerattn.BF16, c.q.Shape()...)}
	bytes, err := dev.PrefillWorkspace(model, args)
	check(t, err)
	stats, err := dev.Prefill(background, model, c.Layer, args)
	check(t, err)
	if bytes == 0 || stats.WorkspaceBytes != bytes {
		t.Errorf("%d bytes foretold, %d taken", bytes, stats.WorkspaceBytes)
	}
}

func TestDevices(t *testing.T) {
	cpus, err := seerattn.Devices(seerattn.BackendCPU)
	check(t, err)
	if len(cpus) != 1 || cpus[0].Backend != seerattn.BackendCPU || cpus[0].Name == "" || cpus[0].MemoryBytes == 0 {
		t.Errorf("%+v", cpus)
	}
	info, err := open(t, seerattn.Options{Backend: seerattn.BackendCPU, Threads: 1}).Info()
	check(t, err)
	if info.Backend.String() != "cpu" || !reflect.DeepEqual(info.DTypes, []seerattn.DType{seerattn.F32, seerattn.F16, seerattn.BF16}) {
		t.Errorf("%+v", info)
	}
	c := layout.Constants
	want := fmt.Sprintf("%d.%d.%d", c["SEER_VERSION_MAJOR"], c["SEER_VERSION_MINOR"], c["SEER_VERSION_PATCH"])
	if version := seerattn.Version(); version != want {
		t.Errorf("the library is %s, the header %s", version, want)
	}
}
