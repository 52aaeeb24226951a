package seerattn

// #include <stddef.h>
// #include <stdint.h>
import "C"

import (
	"context"
	"log/slog"
	"runtime/cgo"
	"sync"
)

// Nothing may unwind through the library's frames, so each function that it calls stops panics.

//export seerattnGoLog
func seerattnGoLog(user C.uintptr_t, level C.int32_t, message *C.char, length C.size_t) {
	defer func() { _ = recover() }()
	logger := cgo.Handle(user).Value().(*slog.Logger)
	logger.Log(context.Background(), slogLevel(LogLevel(level)), C.GoStringN(message, C.int(length)))
}

//export seerattnGoLogRelease
func seerattnGoLogRelease(user C.uintptr_t) { cgo.Handle(user).Delete() }

// progress reports to the caller's function, until that panics: then the work is cancelled, and whoever waits for it
// panics in its place.
type progress struct {
	report func(done, total uint64)
	mu     sync.Mutex
	panics bool
	value  any
}

//export seerattnGoProgress
func seerattnGoProgress(user C.uintptr_t, done, total C.uint64_t) (cancel C.int32_t) {
	p := cgo.Handle(user).Value().(*progress)
	defer func() {
		if value := recover(); value != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			if !p.panics {
				p.panics, p.value = true, value
			}
			cancel = 1
		}
	}()
	p.report(uint64(done), uint64(total))
	return 0
}

// raise continues the panic of a callback.
func (p *progress) raise() {
	if p == nil {
		return
	}
	p.mu.Lock()
	panics, value := p.panics, p.value
	p.mu.Unlock()
	if panics {
		panic(value)
	}
}

//export seerattnGoDone
func seerattnGoDone(user C.uintptr_t, status C.int32_t) {
	h := cgo.Handle(user)
	done := h.Value().(func(Status))
	h.Delete()
	// The library may not be called from here, and its thread has more to do.
	go done(Status(status))
}
