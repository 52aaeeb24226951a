package seerattn

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"context"
	"errors"
	"unsafe"
)

// Status says what kind of error an [*Error] is. It is an error itself, to be compared with errors.Is.
type Status int32

// The kinds of errors. The numbers are the C API's.
const (
	ErrInvalidArgument   Status = C.SEER_ERROR_INVALID_ARGUMENT
	ErrStruct            Status = C.SEER_ERROR_STRUCT        // a struct of this package that the library does not know
	ErrHandle            Status = C.SEER_ERROR_HANDLE        // closed, or of another device
	ErrShape             Status = C.SEER_ERROR_SHAPE         //
	ErrDType             Status = C.SEER_ERROR_DTYPE         //
	ErrStride            Status = C.SEER_ERROR_STRIDE        // strides, alignment, overlap
	ErrMemoryKind        Status = C.SEER_ERROR_MEMORY_KIND   //
	ErrOutOfBounds       Status = C.SEER_ERROR_OUT_OF_BOUNDS // a tensor exceeds its slice, or 64-bit overflow
	ErrUnsupported       Status = C.SEER_ERROR_UNSUPPORTED   //
	ErrOutOfMemory       Status = C.SEER_ERROR_OUT_OF_MEMORY //
	ErrDeviceOutOfMemory Status = C.SEER_ERROR_DEVICE_OUT_OF_MEMORY
	ErrDeviceLost        Status = C.SEER_ERROR_DEVICE_LOST    // the context is dead
	ErrCancelled         Status = C.SEER_ERROR_CANCELLED      //
	ErrIO                Status = C.SEER_ERROR_IO             //
	ErrFormat            Status = C.SEER_ERROR_FORMAT         // malformed file
	ErrUnsafeFile        Status = C.SEER_ERROR_UNSAFE_FILE    // loading it would need code execution
	ErrModelMismatch     Status = C.SEER_ERROR_MODEL_MISMATCH // weights and configuration, or tensors and model, do not fit
	ErrCacheState        Status = C.SEER_ERROR_CACHE_STATE    // full, or positions not contiguous
	ErrBusy              Status = C.SEER_ERROR_BUSY           // called from a callback
	ErrInternal          Status = C.SEER_ERROR_INTERNAL       //
)

// Error returns the status's name in the C API, such as SEER_ERROR_SHAPE.
func (s Status) Error() string { return C.GoString(C.seer_status_name(C.seer_status(s))) }

// Error is an error of the library.
type Error struct {
	Status Status
	Detail string // which argument or file, what was found and what was expected
	causes []error
}

// Error returns the detail and the status's name.
func (e *Error) Error() string {
	text := "seerattn: "
	if e.Detail != "" {
		text += e.Detail + " "
	}
	text += "(" + e.Status.Error() + ")"
	for _, cause := range e.causes {
		text += ": " + cause.Error()
	}
	return text
}

// Unwrap returns the status and, where a context.Context ended the call, the context's error and cause.
func (e *Error) Unwrap() []error { return append([]error{e.Status}, e.causes...) }

// failure turns the outcome of a call into an error, nil if there is none, and frees its text.
func failure(r C.seer_go_result) error {
	if r.status >= 0 {
		return nil
	}
	e := &Error{Status: Status(r.status)}
	if r.detail != nil {
		e.Detail = C.GoString(r.detail)
		C.free(unsafe.Pointer(r.detail))
	}
	return e
}

// cancelled adds to an error of cancelled work why its context ended, if it did.
func cancelled(err error, ctx context.Context) error {
	var e *Error
	if !errors.As(err, &e) || e.Status != ErrCancelled || ctx.Err() == nil {
		return err
	}
	e.causes = []error{ctx.Err()}
	if cause := context.Cause(ctx); cause != ctx.Err() {
		e.causes = append(e.causes, cause)
	}
	return e
}
