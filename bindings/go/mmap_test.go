//go:build unix

package seerattn_test

import (
	"bytes"
	"syscall"
	"testing"
	"unsafe"

	"example.com/seerattn"
)

// Memory that is not the collector's, here a mapping, is a tensor's too.
func TestMappedMemory(t *testing.T) {
	dev := open(t, seerattn.Options{})
	want, args := light(), light()
	_, err := dev.Attention(background, want)
	check(t, err)
	size := len(want.Q.Bytes())
	memory, err := syscall.Mmap(-1, 0, 2*size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	check(t, err)
	defer func() { check(t, syscall.Munmap(memory)) }()
	copy(memory, want.Q.Bytes())
	floats := unsafe.Slice((*float32)(unsafe.Pointer(&memory[0])), 2*size/4)
	args.Q = seerattn.TensorOf(floats[:size/4], args.Q.Shape()...)
	args.Out = seerattn.TensorOf(floats[size/4:], args.Out.Shape()...)
	_, err = dev.Attention(background, args)
	check(t, err)
	if !bytes.Equal(memory[size:], want.Out.Bytes()) {
		t.Error("another result")
	}
}
