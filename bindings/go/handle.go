package seerattn

import (
	"sync"
	"unsafe"
)

// handle is a C handle that calls borrow. Close gives it back once the last borrower is done, so that neither a Close
// nor a finalizer in the middle of a call can free it there: put, after the call, also keeps the handle's owner alive.
type handle struct {
	mu      sync.Mutex
	ptr     unsafe.Pointer
	users   int
	closed  bool
	release func(unsafe.Pointer)
}

// borrow returns the C handle, which the caller must put back. It is NULL for a nil or zero owner: the library refuses
// that itself.
func (h *handle) borrow(name string) (unsafe.Pointer, error) {
	if h == nil {
		return nil, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		// The library's words for a handle that was released, where it can still tell.
		return nil, &Error{
			Status: ErrHandle,
			Detail: name + " is no live handle of its type: released already, or something else",
		}
	}
	h.users++
	return h.ptr, nil
}

func (h *handle) put() {
	if h != nil {
		h.update(func() { h.users-- })
	}
}

func (h *handle) close() {
	if h != nil {
		h.update(func() { h.closed = true })
	}
}

func (h *handle) update(change func()) {
	h.mu.Lock()
	change()
	var unused unsafe.Pointer
	if h.closed && h.users == 0 {
		unused, h.ptr = h.ptr, nil
	}
	h.mu.Unlock()
	// Not under the lock: a release may call back.
	if unused != nil {
		h.release(unused)
	}
}
