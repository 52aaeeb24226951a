package seerattn

// #include "shim.h"
import "C"

import (
	"runtime"
	"unsafe"
)

// Buffer is memory of a device. Who races on its contents does so at their own risk.
type Buffer struct {
	h    handle
	size int
}

// NewBuffer takes size bytes of the context's device.
func (c *Context) NewBuffer(size int) (*Buffer, error) {
	var k call
	defer k.finish()
	p := k.context(c)
	if size < 0 {
		k.fail(ErrInvalidArgument, "size is %d; expected at least 0", size)
	}
	if k.err != nil {
		return nil, k.err
	}
	r := C.seer_go_buffer_create(p, C.uint64_t(size))
	if err := failure(r); err != nil {
		return nil, err
	}
	release := func(p unsafe.Pointer) { C.seer_buffer_release((*C.seer_buffer)(p)) }
	b := &Buffer{handle{ptr: r.handle, release: release}, size}
	runtime.SetFinalizer(b, (*Buffer).finalize)
	return b, nil
}

func (b *Buffer) finalize() { b.h.close() }

// Close gives the buffer back; it is freed after the last call that uses it. Closing again does nothing. The error is
// always nil.
func (b *Buffer) Close() error {
	b.handle().close()
	return nil
}

func (b *Buffer) handle() *handle {
	if b == nil {
		return nil
	}
	return &b.h
}

// Size returns the buffer's bytes.
func (b *Buffer) Size() int { return b.size }

// Address returns a host pointer on the CPU, a device pointer with CUDA; it is valid until Close. Buffers of Vulkan have
// none: ErrUnsupported.
func (b *Buffer) Address() (unsafe.Pointer, error) {
	var k call
	defer k.finish()
	buffer := k.buffer("buffer", b)
	if k.err != nil {
		return nil, k.err
	}
	r := C.seer_go_buffer_address(buffer)
	return r.handle, failure(r)
}

// WriteBuffer copies a slice into the buffer, from a byte on, in the order of the context's calls, and waits until that
// is done.
func WriteBuffer[T Element](b *Buffer, offset int, src []T) error {
	return b.transfer(offset, func(buffer *C.seer_buffer, offset C.uint64_t) C.seer_go_result {
		data, size := bytesOf(src)
		return C.seer_go_buffer_write(buffer, offset, data, size)
	})
}

// ReadBuffer copies from the buffer, from a byte on, into a slice, in the order of the context's calls, and waits until
// that is done.
func ReadBuffer[T Element](b *Buffer, offset int, dst []T) error {
	return b.transfer(offset, func(buffer *C.seer_buffer, offset C.uint64_t) C.seer_go_result {
		data, size := bytesOf(dst)
		return C.seer_go_buffer_read(buffer, offset, data, size)
	})
}

func bytesOf[T Element](s []T) (*C.uint8_t, C.uint64_t) {
	return (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(s))), C.uint64_t(len(s)) * C.uint64_t(unsafe.Sizeof(*new(T)))
}

func (b *Buffer) transfer(offset int, do func(b *C.seer_buffer, offset C.uint64_t) C.seer_go_result) error {
	var k call
	defer k.finish()
	buffer := k.buffer("buffer", b)
	if offset < 0 {
		k.fail(ErrOutOfBounds, "offset is %d; expected at least 0", offset)
	}
	if k.err != nil {
		return k.err
	}
	return failure(do(buffer, C.uint64_t(offset)))
}
