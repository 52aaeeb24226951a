package seerattn_test

import (
	"bytes"
	"slices"
	"testing"
	"unsafe"

	"example.com/seerattn"
)

func TestViews(t *testing.T) {
	data := make([]float32, 2*3*4*5)
	x := seerattn.TensorOf(data, 2, 3, 4, 5)
	if !slices.Equal(x.Shape(), []int{2, 3, 4, 5}) || !slices.Equal(x.Stride(), []int{60, 20, 5, 1}) || x.DType() != seerattn.F32 {
		t.Errorf("%v %v %v", x.Shape(), x.Stride(), x.DType())
	}
	if y := x.Permute(0, 2, 1, 3); !slices.Equal(y.Shape(), []int{2, 4, 3, 5}) || !slices.Equal(y.Stride(), []int{60, 5, 20, 1}) {
		t.Errorf("permuted: %v %v", y.Shape(), y.Stride())
	}
	if y := x.Slice(0, 1, 2); &y.Bytes()[0] != (*byte)(unsafe.Pointer(&data[60])) || len(y.Bytes()) != 240 {
		t.Error("a slice of the first dimension views other bytes")
	}
	if y := x.Slice(1, 3, 3); len(y.Bytes()) != 0 || y.Shape()[1] != 0 {
		t.Error("an empty slice is not empty")
	}
	values, err := seerattn.Elements[float32](x)
	check(t, err)
	if &values[0] != &data[0] || len(values) != len(data) {
		t.Error("Elements are not the slice's")
	}
	if flat := seerattn.TensorOf(make([]uint8, 7)); !slices.Equal(flat.Shape(), []int{7}) {
		t.Errorf("without a shape: %v", flat.Shape())
	}
	if zero := seerattn.NewTensor(seerattn.F16, 0, 5); zero.Bytes() == nil || len(zero.Bytes()) != 0 {
		t.Error("an empty tensor has no empty memory")
	}
}

// [B, H, S, D] memory, a part of longer memory or of a struct, a buffer: all give what packed slices give.
func TestLayouts(t *testing.T) {
	dev := open(t, seerattn.Options{})
	const tokens, heads, dim = 128, 2, 64
	want := light()
	_, err := dev.Attention(background, want)
	check(t, err)
	q, err := seerattn.Elements[float32](want.Q)
	check(t, err)
	same := func(t *testing.T, args *seerattn.AttentionArgs, out func() []byte) {
		t.Helper()
		_, err := dev.Attention(background, args)
		check(t, err)
		if !bytes.Equal(out(), want.Out.Bytes()) {
			t.Error("another result")
		}
	}
	swapped := func(x []float32) []float32 { // [S, H, D] to [H, S, D]
		y := make([]float32, len(x))
		for i := range x {
			d, h, s := i%dim, i/dim%heads, i/dim/heads
			y[(h*tokens+s)*dim+d] = x[i]
		}
		return y
	}
	t.Run("permuted", func(t *testing.T) {
		args, out := *want, make([]float32, len(q))
		args.Q = seerattn.TensorOf(swapped(q), 1, heads, tokens, dim).Permute(0, 2, 1, 3)
		args.Out = seerattn.TensorOf(out, 1, heads, tokens, dim).Permute(0, 2, 1, 3)
		_, err := dev.Attention(background, &args)
		check(t, err)
		expected, err := seerattn.Elements[float32](want.Out)
		check(t, err)
		if !slices.Equal(out, swapped(expected)) {
			t.Error("another result")
		}
	})
	t.Run("sliced", func(t *testing.T) {
		args, long := *want, make([]float32, 3*len(q)+7)
		copy(long[len(q)+7:], q)
		args.Q = seerattn.TensorOf(long[7:], 1, 3*tokens, heads, dim).Slice(1, tokens, 2*tokens)
		args.Out = seerattn.NewTensor(seerattn.F32, 1, 3*tokens, heads, dim).Slice(1, 2*tokens, 3*tokens)
		same(t, &args, args.Out.Bytes)
	})
	t.Run("in a struct with pointers", func(t *testing.T) {
		args := *want
		holder := &struct {
			name *string
			q    [tokens * heads * dim]float32
		}{name: new(string)}
		copy(holder.q[:], q)
		args.Q = seerattn.TensorOf(holder.q[:], 1, tokens, heads, dim)
		args.Out = seerattn.NewTensor(seerattn.F32, 1, tokens, heads, dim)
		same(t, &args, args.Out.Bytes)
		buffer, err := dev.NewBuffer(len(q) * 4)
		check(t, err)
		defer buffer.Close()
		check(t, seerattn.WriteBuffer(buffer, 0, holder.q[:]))
		check(t, seerattn.ReadBuffer(buffer, 0, holder.q[:]))
	})
	t.Run("buffers", func(t *testing.T) {
		args, size := *want, len(q)*4
		buffer, err := dev.NewBuffer(2 * size)
		check(t, err)
		defer buffer.Close()
		check(t, seerattn.WriteBuffer(buffer, 0, q))
		args.Q = buffer.Tensor(seerattn.F32, 0, 1, tokens, heads, dim)
		args.Out = buffer.Tensor(seerattn.F32, size, 1, tokens, heads, dim)
		same(t, &args, func() []byte {
			out := make([]uint8, size)
			check(t, seerattn.ReadBuffer(buffer, size, out))
			return out
		})
	})
}

// A packed batch gives what its sequences give alone.
func TestSequences(t *testing.T) {
	dev := open(t, seerattn.Options{})
	const heads, dim = 2, 64
	offsets := []int32{0, 100, 100, 164, 300}
	total := int(offsets[len(offsets)-1])
	q := seerattn.TensorOf(noise(total*heads*dim, 3), total, heads, dim)
	k, v := seerattn.TensorOf(noise(total*dim, 4), total, 1, dim), seerattn.TensorOf(noise(total*dim, 5), total, 1, dim)
	out := seerattn.NewTensor(seerattn.F32, total, heads, dim)
	_, err := dev.Attention(background, &seerattn.AttentionArgs{Q: q, K: k, V: v, Out: out, Sequences: seerattn.Sequences{Q: offsets}})
	check(t, err)
	for i := range offsets[1:] {
		lo, hi := int(offsets[i]), int(offsets[i+1])
		alone := seerattn.NewTensor(seerattn.F32, hi-lo, heads, dim)
		_, err := dev.Attention(background, &seerattn.AttentionArgs{
			Q: q.Slice(0, lo, hi), K: k.Slice(0, lo, hi), V: v.Slice(0, lo, hi), Out: alone,
			Sequences: seerattn.Sequences{Q: []int32{0, int32(hi - lo)}},
		})
		check(t, err)
		if !bytes.Equal(alone.Bytes(), out.Slice(0, lo, hi).Bytes()) {
			t.Errorf("sequence %d is another alone", i)
		}
	}
}
