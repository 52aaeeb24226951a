package seerattn

// #include "shim.h"
import "C"

import (
	"fmt"
	"math"
	"math/bits"
	"unsafe"
)

// DType is the type of a tensor's elements.
type DType int32

// The types of elements. F32, F16 and BF16 are those of q, k, v and out, F32 that of scores and lse, B32 and U8 those of
// masks.
const (
	F32  DType = C.SEER_F32
	F16  DType = C.SEER_F16
	BF16 DType = C.SEER_BF16
	I32  DType = C.SEER_I32
	I64  DType = C.SEER_I64
	U8   DType = C.SEER_U8
	B32  DType = C.SEER_B32 // 32 mask bits in a uint32, least significant first
)

// Size returns the bytes of an element, 0 for an unknown type.
func (d DType) Size() int {
	switch d {
	case F32, I32, B32:
		return 4
	case F16, BF16:
		return 2
	case I64:
		return 8
	case U8:
		return 1
	}
	return 0
}

// String returns "f32", "bf16" and so on.
func (d DType) String() string {
	switch d {
	case F32:
		return "f32"
	case F16:
		return "f16"
	case BF16:
		return "bf16"
	case I32:
		return "i32"
	case I64:
		return "i64"
	case U8:
		return "u8"
	case B32:
		return "b32"
	}
	return fmt.Sprintf("DType(%d)", int32(d))
}

// Element is a Go type of tensor elements: F32, F16, BF16, U8 and B32.
type Element interface {
	float32 | Float16 | BFloat16 | uint8 | uint32
}

func dtypeOf[T Element]() DType {
	var zero T
	switch any(zero).(type) {
	case float32:
		return F32
	case Float16:
		return F16
	case BFloat16:
		return BF16
	case uint8:
		return U8
	default:
		return B32
	}
}

// Tensor is a view of memory: a slice, a part of a [Buffer], or memory of a device. It is a small value; copies view the
// same memory. The zero value means that an optional tensor is absent. A view that was made wrongly, say a [Tensor.Slice]
// beyond its end, makes the call fail that is given it.
type Tensor struct {
	mem           C.seer_mem
	dtype         DType
	ndim          int
	data          unsafe.Pointer // host: keeps the slice alive
	address       uintptr        // CUDA
	vkBuffer      uint64
	buffer        *Buffer
	offset, size  uint64 // bytes
	shape, stride [4]int64
	err           *Error
}

// TensorOf views a slice; without a shape, as a tensor of one dimension. The slice must hold every element of the shape.
func TensorOf[T Element](data []T, shape ...int) Tensor {
	if len(shape) == 0 {
		shape = []int{len(data)}
	}
	var zero T
	t := Tensor{mem: C.SEER_MEM_HOST, dtype: dtypeOf[T](), data: unsafe.Pointer(unsafe.SliceData(data))}
	t.size = uint64(len(data)) * uint64(unsafe.Sizeof(zero))
	return t.shaped(shape)
}

// NewTensor is a tensor over memory of its own, which is zero.
func NewTensor(dtype DType, shape ...int) Tensor {
	t := Tensor{mem: C.SEER_MEM_HOST, dtype: dtype}.shaped(shape)
	count, ok := t.count()
	if high, size := bits.Mul64(count, uint64(dtype.Size())); ok && high == 0 && size <= math.MaxInt64-8 && t.err == nil {
		memory := make([]uint64, (size+7)/8) // aligned for every element
		t.data, t.size = unsafe.Pointer(unsafe.SliceData(memory)), size
	} else if t.err == nil {
		t.err = &Error{Status: ErrOutOfBounds, Detail: fmt.Sprintf("a tensor of shape %v does not fit in memory", shape)}
	}
	return t
}

// Tensor views a part of the buffer, from a byte on.
func (b *Buffer) Tensor(dtype DType, offset int, shape ...int) Tensor {
	return Tensor{mem: C.SEER_MEM_BUFFER, dtype: dtype, buffer: b, offset: uint64(offset)}.shaped(shape)
}

// CUDATensor views device or managed memory of CUDA. size is the bytes reachable from the address; 0 asks the driver.
// The memory must live until the call is done.
func CUDATensor(dtype DType, address uintptr, size uint64, shape ...int) Tensor {
	return Tensor{mem: C.SEER_MEM_CUDA, dtype: dtype, address: address, size: size}.shaped(shape)
}

// VulkanTensor views a VkBuffer with STORAGE_BUFFER usage, which must live until the call is done. size is its bytes.
func VulkanTensor(dtype DType, buffer uint64, size uint64, shape ...int) Tensor {
	return Tensor{mem: C.SEER_MEM_VULKAN, dtype: dtype, vkBuffer: buffer, size: size}.shaped(shape)
}

func (t Tensor) shaped(shape []int) Tensor {
	t.ndim = len(shape) // other than 1 to 4 is for the library to refuse
	for d := 0; d < min(t.ndim, 4); d++ {
		t.shape[d] = int64(shape[d])
	}
	stride := int64(1)
	for d := min(t.ndim, 4) - 1; d >= 0; d-- {
		t.stride[d] = stride
		high, low := bits.Mul64(uint64(stride), uint64(max(t.shape[d], 1)))
		if high != 0 || low > math.MaxInt64 {
			low = math.MaxInt64 // beyond any memory, which the library finds out
		}
		stride = int64(low)
	}
	return t
}

// count returns the number of elements, false where it exceeds 64 bits.
func (t *Tensor) count() (uint64, bool) {
	count, fits := uint64(1), t.ndim <= 4
	for _, extent := range t.shape[:min(t.ndim, 4)] {
		high, low := bits.Mul64(count, uint64(max(extent, 0)))
		fits, count = fits && high == 0, low
	}
	return count, fits
}

// packed says whether the elements follow one another. Strides of extents up to 1 move nothing.
func (t *Tensor) packed() bool {
	like := t.shaped(t.Shape())
	for d, stride := range t.stride {
		if t.shape[d] > 1 && stride != like.stride[d] {
			return false
		}
	}
	return true
}

func (t Tensor) failed(status Status, format string, values ...any) Tensor {
	if t.err == nil {
		t.err = &Error{Status: status, Detail: fmt.Sprintf(format, values...)}
	}
	return t
}

// Strided sets the strides, in elements: at least 0, the innermost 1.
func (t Tensor) Strided(stride ...int) Tensor {
	if len(stride) != t.ndim {
		return t.failed(ErrStride, "%d strides for %d dimensions", len(stride), t.ndim)
	}
	for d := 0; d < min(t.ndim, 4); d++ {
		t.stride[d] = int64(stride[d])
	}
	return t
}

// Permute reorders the dimensions: the new dimension d is the old order[d]. Memory laid out as [B, H, S, D] becomes the
// [B, S, H, D] that calls take by Permute(0, 2, 1, 3).
func (t Tensor) Permute(order ...int) Tensor {
	from, seen := t, [4]bool{}
	if len(order) != t.ndim || t.ndim > 4 {
		return t.failed(ErrShape, "a permutation of %d dimensions for a tensor of %d", len(order), t.ndim)
	}
	for d, o := range order {
		if o < 0 || o >= t.ndim || seen[o] {
			return t.failed(ErrShape, "%v is no permutation of the dimensions", order)
		}
		seen[o] = true
		t.shape[d], t.stride[d] = from.shape[o], from.stride[o]
	}
	return t
}

// Slice keeps the indices from lo up to hi, without it, of a dimension.
func (t Tensor) Slice(dim, lo, hi int) Tensor {
	if dim < 0 || dim >= min(t.ndim, 4) {
		return t.failed(ErrShape, "a slice of dimension %d of a tensor of %d", dim, t.ndim)
	}
	if lo < 0 || lo > hi || int64(hi) > t.shape[dim] {
		return t.failed(ErrOutOfBounds, "a slice from %d to %d of %d", lo, hi, t.shape[dim])
	}
	t.shape[dim] = int64(hi - lo)
	high, skipped := bits.Mul64(uint64(lo), uint64(t.stride[dim]))
	if bytes := skipped * uint64(t.dtype.Size()); high == 0 && skipped <= math.MaxInt64/8 {
		t.offset += bytes
	} else {
		return t.failed(ErrOutOfBounds, "a slice from %d of stride %d exceeds 64 bits", lo, t.stride[dim])
	}
	return t
}

// DType returns the type of the elements, 0 for an absent tensor.
func (t Tensor) DType() DType { return t.dtype }

// Shape returns the extents.
func (t Tensor) Shape() []int { return ints(t.shape[:min(t.ndim, 4)]) }

// Stride returns the strides in elements.
func (t Tensor) Stride() []int { return ints(t.stride[:min(t.ndim, 4)]) }

func ints(values []int64) []int {
	out := make([]int, len(values))
	for i, x := range values {
		out[i] = int(x)
	}
	return out
}

// Bytes returns the memory of a packed tensor over a slice, not copied; nil for any other tensor.
func (t Tensor) Bytes() []byte {
	count, ok := t.count()
	high, size := bits.Mul64(count, uint64(t.dtype.Size()))
	if t.mem != C.SEER_MEM_HOST || t.err != nil || !ok || high != 0 || !t.packed() {
		return nil
	}
	if t.offset > t.size || size > t.size-t.offset { // the slice is shorter than the shape
		return nil
	}
	if size == 0 {
		return []byte{}
	}
	return unsafe.Slice((*byte)(unsafe.Add(t.data, t.offset)), size)
}

// Elements returns the elements of a packed tensor over a slice, not copied.
func Elements[T Element](t Tensor) ([]T, error) {
	if want := dtypeOf[T](); t.dtype != want {
		return nil, &Error{Status: ErrDType, Detail: fmt.Sprintf("the tensor is %v; expected %v", t.dtype, want)}
	}
	bytes := t.Bytes()
	if bytes == nil {
		if t.err != nil {
			return nil, t.err
		}
		return nil, &Error{Status: ErrMemoryKind, Detail: "the tensor does not view a slice, packed"}
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(bytes))), len(bytes)/t.dtype.Size()), nil
}
