package seerattn_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/seerattn"
	"example.com/seerattn/safetensors"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open opens a context on the backend that SEER_BACKEND names, else the CPU, and closes it with the test.
func open(t testing.TB, options seerattn.Options) *seerattn.Context {
	t.Helper()
	if options.Backend == seerattn.BackendAuto {
		options.Backend = seerattn.BackendCPU
		if name := os.Getenv("SEER_BACKEND"); name != "" {
			var err error
			options.Backend, err = seerattn.ParseBackend(name)
			check(t, err)
		}
	}
	dev, err := seerattn.Open(options)
	check(t, err)
	t.Cleanup(func() { check(t, dev.Close()) })
	return dev
}

func loadDir(t testing.TB, dev *seerattn.Context, dir string) *seerattn.Model {
	t.Helper()
	model, err := dev.LoadDir(context.Background(), dir, seerattn.LoadOptions{})
	check(t, err)
	t.Cleanup(func() { check(t, model.Close()) })
	return model
}

// expectError wants an error of the library's of that status, whose text holds a word.
func expectError(t testing.TB, err error, status seerattn.Status, word string) {
	t.Helper()
	var e *seerattn.Error
	switch {
	case err == nil:
		t.Errorf("no error; expected %v (%s)", status, word)
	case !errors.Is(err, status):
		t.Errorf("%v; expected %v (%s)", err, status, word)
	case !errors.As(err, &e) || e.Status != status || !strings.Contains(e.Detail, word):
		t.Errorf("%q does not say %q", err, word)
	}
}

func noise(count int, seed int64) []float32 {
	random, x := rand.New(rand.NewSource(seed)), make([]float32, count)
	for i := range x {
		x[i] = float32(random.NormFloat64())
	}
	return x
}

// heavy is dense attention that takes seconds on one thread, unless it is cancelled.
func heavy() *seerattn.AttentionArgs {
	const tokens, heads, dim = 8192, 8, 128
	x := seerattn.TensorOf(noise(tokens*dim, 1), 1, tokens, 1, dim)
	return &seerattn.AttentionArgs{
		Q: seerattn.TensorOf(noise(tokens*heads*dim, 2), 1, tokens, heads, dim), K: x, V: x,
		Out: seerattn.NewTensor(seerattn.F32, 1, tokens, heads, dim),
	}
}

// light is attention that takes next to nothing.
func light() *seerattn.AttentionArgs {
	const tokens, heads, dim = 128, 2, 64
	x := seerattn.TensorOf(noise(tokens*dim, 1), 1, tokens, 1, dim)
	return &seerattn.AttentionArgs{
		Q: seerattn.TensorOf(noise(tokens*heads*dim, 2), 1, tokens, heads, dim), K: x, V: x,
		Out: seerattn.NewTensor(seerattn.F32, 1, tokens, heads, dim),
	}
}

// gateWeights reads the arrays of a folder that Save wrote.
func gateWeights(t testing.TB, dir string, config seerattn.GateConfig) []seerattn.GateWeights {
	t.Helper()
	file, err := safetensors.Open(filepath.Join(dir, "attn_gate_weights.safetensors"))
	check(t, err)
	defer file.Close()
	layers := make([]seerattn.GateWeights, config.Layers)
	for i := range layers {
		prefix := fmt.Sprintf("model.layers.%d.self_attn.attn_gate.mask_linear_", config.FirstLayer+i)
		for name, target := range map[string]*seerattn.Tensor{"q": &layers[i].WQ, "k": &layers[i].WK} {
			if slices.Contains(file.Names(), prefix+name+".weight") {
				*target, err = file.Tensor(prefix + name + ".weight")
				check(t, err)
			}
		}
	}
	return layers
}
