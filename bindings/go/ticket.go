package seerattn

// #include "shim.h"
import "C"

import (
	"context"
	"runtime/cgo"
)

// Ticket is work that was started. The slices of its tensors stay pinned, and what it uses stays alive, until it is
// done, whether or not anybody waits for it.
type Ticket struct {
	done     chan struct{}
	stats    Stats
	err      error
	progress *progress
}

// Done is closed when the work is done and its slices are the caller's again.
func (t *Ticket) Done() <-chan struct{} { return t.done }

// Wait waits for the work and returns how it went, any number of times. To stop waiting sooner, select on [Ticket.Done];
// to stop the work, cancel the context.Context that it was started with.
func (t *Ticket) Wait() (Stats, error) {
	if t == nil || t.done == nil {
		return Stats{}, &Error{Status: ErrInvalidArgument, Detail: "ticket is nil"}
	}
	<-t.done
	t.progress.raise()
	return t.stats, t.err
}

func (c *Context) start(ctx context.Context, op operation) (*Ticket, error) {
	k := new(call)
	p, number, err := c.submit(ctx, k, op)
	if err != nil {
		k.finish()
		return nil, err
	}
	t := &Ticket{done: make(chan struct{}), progress: k.progress}
	complete := func(status Status) {
		t.stats, t.err = k.wait(p, number)
		if t.err == nil && status < 0 {
			// So much was submitted since that the library no longer has the text.
			t.stats, t.err = Stats{}, cancelled(&Error{Status: status}, k.ctx)
		}
		k.finish()
		close(t.done)
	}
	h := cgo.NewHandle(complete)
	if failure(C.seer_go_on_done(p, number, C.uintptr_t(h))) != nil {
		// The work was accepted: without a callback, a thread waits for it.
		h.Delete()
		go complete(0)
	}
	return t, nil
}
