package seerattn_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"example.com/seerattn"
	"example.com/seerattn/safetensors"
)

// What the project's own `seer check` allows: the gate computes in f32 whatever the inputs are, and the expectations of
// bf16 runs come from unrounded f64.
const (
	gateTolerance = 1e-5
	f32Tolerance  = 1e-5
	halfTolerance = 4e-3
)

// golden is a case computed by the original code in float64; see tests/golden/README.md.
type golden struct {
	Layer     int     `json:"layer"`
	Block     int     `json:"block_size"`
	Method    string  `json:"method"`
	Threshold float64 `json:"threshold"`

	dir                 string
	q, k, v             seerattn.Tensor // bf16
	logits, probs       []float32
	lse, out            []float32
	mask                []uint8
	outRows             []int
	batch, tokens       int
	heads, dim, nBlocks int
}

func goldenDirs(t testing.TB) []string {
	t.Helper()
	dirs, err := filepath.Glob("../../tests/golden/*/case.json")
	if err != nil || len(dirs) == 0 {
		t.Skip("the golden cases are not here: this is not the project's own tree")
	}
	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	return dirs
}

func goldenDir(t testing.TB, name string) string {
	goldenDirs(t)
	return filepath.Join("../../tests/golden", name)
}

func loadGolden(t testing.TB, dir string) *golden {
	t.Helper()
	c := &golden{dir: dir}
	text, err := os.ReadFile(filepath.Join(dir, "case.json"))
	check(t, err)
	check(t, json.Unmarshal(text, c))
	file, err := safetensors.Open(filepath.Join(dir, "case.safetensors"))
	check(t, err)
	defer file.Close()
	read := func(name string) seerattn.Tensor {
		x, err := file.Tensor(name)
		check(t, err)
		return x
	}
	floats := func(name string) []float32 {
		x, err := seerattn.Elements[float32](read(name))
		check(t, err)
		return x
	}
	c.q, c.k, c.v = read("q"), read("k"), read("v")
	c.logits, c.probs, c.lse, c.out = floats("gate_logits"), floats("gate_probs"), floats("lse"), floats("out")
	c.mask = read("block_mask").Bytes()
	rows := read("out_rows").Bytes()
	for i := 0; i < len(rows); i += 4 {
		c.outRows = append(c.outRows, int(binary.NativeEndian.Uint32(rows[i:])))
	}
	shape := c.q.Shape()
	c.batch, c.tokens, c.heads, c.dim = shape[0], shape[1], shape[2], shape[3]
	c.nBlocks = (c.tokens + c.Block - 1) / c.Block
	return c
}

// inputs returns q, k and v in another type.
func (c *golden) inputs(t testing.TB, dtype seerattn.DType) (q, k, v seerattn.Tensor) {
	convert := func(x seerattn.Tensor) seerattn.Tensor {
		bits, err := seerattn.Elements[seerattn.BFloat16](x)
		check(t, err)
		switch values := seerattn.ToFloat32(bits); dtype {
		case seerattn.F32:
			return seerattn.TensorOf(values, x.Shape()...)
		case seerattn.F16:
			return seerattn.TensorOf(seerattn.FromFloat32[seerattn.Float16](values), x.Shape()...)
		default:
			return x
		}
	}
	return convert(c.q), convert(c.k), convert(c.v)
}

func toFloats(t testing.TB, x seerattn.Tensor) []float32 {
	switch x.DType() {
	case seerattn.F16:
		values, err := seerattn.Elements[seerattn.Float16](x)
		check(t, err)
		return seerattn.ToFloat32(values)
	case seerattn.BF16:
		values, err := seerattn.Elements[seerattn.BFloat16](x)
		check(t, err)
		return seerattn.ToFloat32(values)
	default:
		values, err := seerattn.Elements[float32](x)
		check(t, err)
		return values
	}
}

// distance is a relative Frobenius norm of a difference.
type distance struct {
	difference, norm float64
	count            int
}

func (d *distance) add(got, want float32) {
	d.difference += (float64(got) - float64(want)) * (float64(got) - float64(want))
	d.norm += float64(want) * float64(want)
	d.count++
}

func (d *distance) expect(t *testing.T, what string, tolerance float64) {
	t.Helper()
	if err := math.Sqrt(d.difference / d.norm); !(err < tolerance) || d.count == 0 {
		t.Errorf("%s: relative error %g over %d values; expected less than %g", what, err, d.count, tolerance)
	}
}

// nearCut says whether rounding may move a block across the cut: the threshold, or the scores of the row's other side.
func (c *golden) nearCut(row []float32, mask []uint8, j, visible int) bool {
	score := float64(row[j])
	if c.Method == "threshold" {
		return math.Abs(score-c.Threshold) <= gateTolerance*max(math.Abs(score), c.Threshold)
	}
	kept, dropped, largest := math.Inf(1), math.Inf(-1), 0.0
	for i, x := range row[:visible] {
		largest = max(largest, math.Abs(float64(x)))
		if mask[i] != 0 {
			kept = min(kept, float64(x))
		} else {
			dropped = max(dropped, float64(x))
		}
	}
	if mask[j] != 0 {
		return score <= dropped+gateTolerance*largest
	}
	return score >= kept-gateTolerance*largest
}

// sameRows compares a mask and returns which block rows attended to the expected blocks.
func (c *golden) sameRows(t *testing.T, got []uint32) []bool {
	t.Helper()
	n, words := c.nBlocks, (c.nBlocks+31)/32
	scores := c.probs
	if c.Method != "threshold" {
		scores = c.logits
	}
	same := make([]bool, c.batch*c.heads*n)
	for r := range same {
		want, row, i := c.mask[r*n:(r+1)*n], scores[r*n:(r+1)*n], r%n
		same[r] = true
		nothing := true
		for _, x := range want {
			nothing = nothing && x == 0
		}
		for j := range want {
			keeps := got[r*words+j/32]>>(j%32)&1 != 0
			switch {
			case nothing: // the original divides by zero there; we keep the diagonal
				same[r] = false
				if keeps != (j == i) {
					t.Fatalf("row %d keeps block %d: %v; expected just its diagonal", r, j, keeps)
				}
			case keeps != (want[j] != 0):
				same[r] = false
				if j > i || !c.nearCut(row, want, j, i+1) {
					t.Fatalf("row %d, block %d: kept %v, expected %v; score %g", r, j, keeps, want[j] != 0, row[j])
				}
			}
		}
	}
	return same
}

func (c *golden) compareAttention(t *testing.T, same []bool, out, lse []float32, tolerance float64) {
	t.Helper()
	var outError, lseError distance
	row := func(b, head, token int) bool { return same[(b*c.heads+head)*c.nBlocks+token/c.Block] }
	for i, x := range lse {
		if row(i/c.tokens/c.heads, i/c.tokens%c.heads, i%c.tokens) {
			lseError.add(x, c.lse[i])
		} else if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			t.Fatalf("lse[%d] is %g", i, x)
		}
	}
	for b := 0; b < c.batch; b++ {
		for r, token := range c.outRows {
			for head := 0; head < c.heads; head++ {
				got := out[((b*c.tokens+token)*c.heads+head)*c.dim:][:c.dim]
				want := c.out[((b*len(c.outRows)+r)*c.heads+head)*c.dim:][:c.dim]
				for i := range got {
					if row(b, head, token) {
						outError.add(got[i], want[i])
					}
				}
			}
		}
	}
	lseError.expect(t, "lse", tolerance)
	outError.expect(t, "out", tolerance)
}

func TestGolden(t *testing.T) {
	dev := open(t, seerattn.Options{})
	for _, dir := range goldenDirs(t) {
		c := loadGolden(t, dir)
		model := loadDir(t, dev, dir)
		for _, dtype := range []seerattn.DType{seerattn.F32, seerattn.BF16, seerattn.F16} {
			t.Run(fmt.Sprintf("%s/%v", filepath.Base(dir), dtype), func(t *testing.T) {
				q, k, v := c.inputs(t, dtype)
				words := (c.nBlocks + 31) / 32
				out := seerattn.NewTensor(dtype, q.Shape()...)
				lse := make([]float32, c.batch*c.heads*c.tokens)
				mask := make([]uint32, c.batch*c.heads*c.nBlocks*words)
				stats, err := dev.Prefill(context.Background(), model, c.Layer, &seerattn.PrefillArgs{
					Q: q, K: k, V: v, Out: out,
					LSE:  seerattn.TensorOf(lse, c.batch, c.heads, c.tokens),
					Mask: seerattn.TensorOf(mask, c.batch, c.heads, c.nBlocks, words),
				})
				check(t, err)
				tolerance := f32Tolerance
				if dtype != seerattn.F32 {
					tolerance = halfTolerance
				}
				c.compareAttention(t, c.sameRows(t, mask), toFloats(t, out), lse, tolerance)
				kept := uint64(0)
				for _, word := range mask {
					for ; word != 0; word &= word - 1 {
						kept++
					}
				}
				if causal := uint64(c.batch * c.heads * c.nBlocks * (c.nBlocks + 1) / 2); stats.BlocksKept != kept ||
					stats.BlocksCausal != causal || stats.DeviceNs == 0 {
					t.Errorf("stats %+v; the mask keeps %d of %d", stats, kept, causal)
				}
			})
		}
	}
}

// The stages one by one do what prefill does.
func TestStages(t *testing.T) {
	dev := open(t, seerattn.Options{})
	for _, dir := range goldenDirs(t) {
		c := loadGolden(t, dir)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			model := loadDir(t, dev, dir)
			config, err := model.Config()
			check(t, err)
			q, k, v := c.inputs(t, seerattn.F32)
			n, ctx := c.nBlocks, context.Background()
			logits, probs := make([]float32, c.batch*c.heads*n*n), make([]float32, c.batch*c.heads*n*n)
			gate := seerattn.GateArgs{Q: q, K: k, Scores: seerattn.TensorOf(logits, c.batch, c.heads, n, n), Logits: true}
			_, err = dev.Gate(ctx, model, c.Layer, &gate)
			check(t, err)
			gate.Scores, gate.Logits = seerattn.TensorOf(probs, c.batch, c.heads, n, n), false
			gate.Select.Method = seerattn.SelectThreshold // whose scores are probabilities
			_, err = dev.Gate(ctx, model, c.Layer, &gate)
			check(t, err)
			var logitsError, probsError distance
			for i := range logits {
				if i%n <= i/n%n {
					logitsError.add(logits[i], c.logits[i])
					probsError.add(probs[i], c.probs[i])
				} else if !math.IsInf(float64(logits[i]), -1) || probs[i] != 0 {
					t.Fatalf("scores %g and %g outside of the triangle", logits[i], probs[i])
				}
			}
			logitsError.expect(t, "logits", gateTolerance)
			probsError.expect(t, "probabilities", gateTolerance)

			words := (n + 31) / 32
			mask := make([]uint32, c.batch*c.heads*n*words)
			scores := seerattn.TensorOf(probs, c.batch, c.heads, n, n)
			if c.Method != "threshold" {
				scores = seerattn.TensorOf(logits, c.batch, c.heads, n, n)
			}
			_, err = dev.Select(ctx, &seerattn.SelectArgs{
				Scores: scores, Mask: seerattn.TensorOf(mask, c.batch, c.heads, n, words),
				QLen: c.tokens, KLen: c.tokens, BlockSize: c.Block, Select: config.Select,
			})
			check(t, err)
			same := c.sameRows(t, mask)

			out, lse := seerattn.NewTensor(seerattn.F32, q.Shape()...), make([]float32, c.batch*c.heads*c.tokens)
			_, err = dev.Attention(ctx, &seerattn.AttentionArgs{
				Q: q, K: k, V: v, Out: out, LSE: seerattn.TensorOf(lse, c.batch, c.heads, c.tokens),
				Mask: seerattn.TensorOf(mask, c.batch, c.heads, n, words), Rope: config.Rope, BlockSize: c.Block,
			})
			check(t, err)
			c.compareAttention(t, same, toFloats(t, out), lse, f32Tolerance)
		})
	}
}
