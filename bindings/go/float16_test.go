package seerattn_test

import (
	"math"
	"testing"

	"example.com/seerattn"
)

// Every half survives the way to float32 and back.
func TestHalvesRoundTrip(t *testing.T) {
	bits := make([]uint16, 1<<16)
	for i := range bits {
		bits[i] = uint16(i)
	}
	f16 := seerattn.HalvesOf[seerattn.Float16](bits)
	for i, x := range seerattn.BitsOf(seerattn.FromFloat32[seerattn.Float16](seerattn.ToFloat32(f16))) {
		if quiet := bits[i] | 0x200; x != bits[i] && !(f16[i].Float32() != f16[i].Float32() && x == quiet) {
			t.Fatalf("f16 %#04x came back as %#04x", bits[i], x)
		}
	}
	bf16 := seerattn.HalvesOf[seerattn.BFloat16](bits)
	for i, x := range seerattn.BitsOf(seerattn.FromFloat32[seerattn.BFloat16](seerattn.ToFloat32(bf16))) {
		if quiet := bits[i] | 0x40; x != bits[i] && !(bf16[i].Float32() != bf16[i].Float32() && x == quiet) {
			t.Fatalf("bf16 %#04x came back as %#04x", bits[i], x)
		}
	}
}

// The formats' definitions, in float64.
func TestHalfValues(t *testing.T) {
	value := func(bits uint16, exponentBits, bias int) float64 {
		fractionBits := 15 - exponentBits
		fraction := float64(bits&(1<<fractionBits-1)) / float64(int(1)<<fractionBits)
		exponent := int(bits>>fractionBits) & (1<<exponentBits - 1)
		sign := 1 - 2*float64(bits>>15)
		switch {
		case exponent == 1<<exponentBits-1 && fraction != 0:
			return math.NaN()
		case exponent == 1<<exponentBits-1:
			return sign * math.Inf(1)
		case exponent == 0:
			return sign * math.Ldexp(fraction, 1-bias)
		}
		return sign * math.Ldexp(1+fraction, exponent-bias)
	}
	for i := 0; i < 1<<16; i++ {
		for _, x := range []struct{ got, want float64 }{
			{float64(seerattn.Float16(i).Float32()), value(uint16(i), 5, 15)},
			{float64(seerattn.BFloat16(i).Float32()), value(uint16(i), 8, 127)},
		} {
			if math.Float64bits(x.got) != math.Float64bits(x.want) && !(x.got != x.got && x.want != x.want) {
				t.Fatalf("%#04x is %g; expected %g", i, x.got, x.want)
			}
		}
	}
}

// Between two neighbours the nearer one is taken, in the middle the even one.
func TestHalvesRound(t *testing.T) {
	round := map[string]struct {
		to   func(float32) uint16
		from func(uint16) float32
		top  uint16 // the largest finite one
	}{
		"f16": {
			func(x float32) uint16 { return uint16(seerattn.NewFloat16(x)) },
			func(b uint16) float32 { return seerattn.Float16(b).Float32() }, 0x7bff,
		},
		"bf16": {
			func(x float32) uint16 { return uint16(seerattn.NewBFloat16(x)) },
			func(b uint16) float32 { return seerattn.BFloat16(b).Float32() }, 0x7f7f,
		},
	}
	for name, r := range round {
		for low := uint16(0); low < r.top; low++ {
			high, even := low+1, low+low&1
			middle := float32((float64(r.from(low)) + float64(r.from(high))) / 2)
			below, above := math.Nextafter32(middle, 0), math.Nextafter32(middle, float32(math.Inf(1)))
			for x, want := range map[float32]uint16{below: low, middle: even, above: high} {
				if got := r.to(x); got != want {
					t.Fatalf("%s: %g gives %#04x; expected %#04x", name, x, got, want)
				}
				if got := r.to(-x); got != want|0x8000 {
					t.Fatalf("%s: %g gives %#04x; expected %#04x", name, -x, got, want|0x8000)
				}
			}
		}
		infinity := r.top + 1
		for _, x := range []float32{math.MaxFloat32, float32(math.Inf(1))} {
			if got := r.to(x); got != infinity {
				t.Errorf("%s: %g gives %#04x", name, x, got)
			}
		}
		for _, bits := range []uint32{0x7fc00000, 0x7f800001, 0xffffffff} {
			if x := r.from(r.to(math.Float32frombits(bits))); x == x {
				t.Errorf("%s: the NaN %#08x became %g", name, bits, x)
			}
		}
	}
}
