package seerattn

import (
	"math"
	"unsafe"
)

// Float16 is an IEEE 754 half: 5 bits of exponent, 10 of fraction.
type Float16 uint16

// BFloat16 is the upper half of a float32.
type BFloat16 uint16

// Half is a type of 16 bits.
type Half interface{ Float16 | BFloat16 }

// HalvesOf views bit patterns as halves, without copying.
func HalvesOf[T Half](bits []uint16) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(bits))), len(bits))
}

// BitsOf views halves as bit patterns, without copying.
func BitsOf[T Half](halves []T) []uint16 {
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(halves))), len(halves))
}

// ToFloat32 converts halves. It is exact.
func ToFloat32[T Half](halves []T) []float32 {
	out := make([]float32, len(halves))
	switch in := any(halves).(type) {
	case []Float16:
		for i, x := range in {
			out[i] = x.Float32()
		}
	case []BFloat16:
		for i, x := range in {
			out[i] = x.Float32()
		}
	}
	return out
}

// FromFloat32 converts to halves: the nearest, or the even one of two as near; beyond the largest is infinity.
func FromFloat32[T Half](values []float32) []T {
	out := make([]T, len(values))
	switch out := any(out).(type) {
	case []Float16:
		for i, x := range values {
			out[i] = NewFloat16(x)
		}
	case []BFloat16:
		for i, x := range values {
			out[i] = NewBFloat16(x)
		}
	}
	return out
}

// NewBFloat16 rounds to the nearest, ties to even. NaN stays NaN.
func NewBFloat16(x float32) BFloat16 {
	bits := math.Float32bits(x)
	if x != x {
		return BFloat16(bits>>16 | 0x40) // quiet, so that a payload in the lower half is not rounded to infinity
	}
	return BFloat16((bits + 0x7fff + bits>>16&1) >> 16)
}

// Float32 is exact.
func (x BFloat16) Float32() float32 { return math.Float32frombits(uint32(x) << 16) }

// NewFloat16 rounds to the nearest, ties to even. NaN stays NaN.
func NewFloat16(x float32) Float16 {
	bits := math.Float32bits(x)
	sign, magnitude := Float16(bits>>16&0x8000), bits&0x7fffffff
	switch {
	case magnitude > 0x7f800000: // NaN
		return sign | 0x7e00 | Float16(magnitude>>13&0x3ff)
	case magnitude >= 0x477ff000: // 65520 and above, infinity too
		return sign | 0x7c00
	case magnitude < 0x38800000: // below the smallest normal, 2^-14
		// Adding 0.5, whose unit in the last place is 2^-24, rounds to a multiple of the smallest half.
		return sign | Float16(math.Float32bits(math.Float32frombits(magnitude)+0.5)-0x3f000000)
	default:
		return sign | Float16((magnitude-0x38000000+0xfff+magnitude>>13&1)>>13)
	}
}

// Float32 is exact.
func (x Float16) Float32() float32 {
	sign, magnitude := uint32(x&0x8000)<<16, uint32(x&0x7fff)<<13
	switch {
	case x&0x7c00 == 0x7c00: // infinity and NaN
		return math.Float32frombits(sign | 0x7f800000 | magnitude&0x7fffff)
	case x&0x7c00 == 0: // zero and below the smallest normal
		return math.Float32frombits(sign | math.Float32bits(float32(x&0x3ff)*0x1p-24))
	default:
		return math.Float32frombits(sign | (magnitude + 0x38000000))
	}
}
