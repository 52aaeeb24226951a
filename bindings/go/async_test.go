package seerattn_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/seerattn"
)

// recorder is a slog.Handler that keeps messages.
type recorder struct {
	mu       sync.Mutex
	messages []string
	levels   []slog.Level
	also     func()
}

func (r *recorder) logger() *slog.Logger                     { return slog.New(r) }
func (r *recorder) Enabled(context.Context, slog.Level) bool { return true }
func (r *recorder) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *recorder) WithGroup(string) slog.Handler            { return r }
func (r *recorder) Handle(_ context.Context, m slog.Record) error {
	r.mu.Lock()
	r.messages, r.levels = append(r.messages, m.Message), append(r.levels, m.Level)
	r.mu.Unlock()
	if r.also != nil {
		r.also()
	}
	return nil
}

func TestLog(t *testing.T) {
	var log recorder
	open(t, seerattn.Options{Logger: log.logger(), LogLevel: seerattn.LogInfo})
	if len(log.messages) == 0 || !strings.Contains(log.messages[0], "context on ") || log.levels[0] != slog.LevelInfo {
		t.Errorf("messages %q of levels %v", log.messages, log.levels)
	}
	log = recorder{}
	open(t, seerattn.Options{Logger: log.logger()}) // warnings only
	if len(log.messages) != 0 {
		t.Errorf("messages %q without being asked for", log.messages)
	}
}

// Inside a callback the library is busy, and panics do not cross it.
func TestLogCallback(t *testing.T) {
	var busy error
	log := recorder{also: func() {
		_, busy = seerattn.Devices(seerattn.BackendCPU)
		panic("a handler's")
	}}
	open(t, seerattn.Options{Logger: log.logger(), LogLevel: seerattn.LogInfo})
	expectError(t, busy, seerattn.ErrBusy, "callback")
}

func TestProgress(t *testing.T) {
	dev := open(t, seerattn.Options{})
	var calls, last, busy atomic.Int64
	args := light()
	args.Progress = func(done, total uint64) {
		calls.Add(1)
		if done == total {
			last.Add(1)
		}
		if _, err := dev.Info(); errors.Is(err, seerattn.ErrBusy) {
			busy.Add(1)
		}
	}
	_, err := dev.Attention(background, args)
	check(t, err)
	if calls.Load() == 0 || last.Load() == 0 || busy.Load() != calls.Load() {
		t.Errorf("%d calls, %d at the end, %d found the library busy", calls.Load(), last.Load(), busy.Load())
	}
	var read atomic.Uint64
	model, err := dev.LoadDir(background, goldenDir(t, "one-block"), seerattn.LoadOptions{
		Progress: func(done, total uint64) { read.Store(done) },
	})
	check(t, err)
	check(t, model.Close())
	if read.Load() == 0 {
		t.Error("no progress of loading")
	}
}

// A panic in a callback cancels the work and surfaces where somebody waits.
func TestProgressPanics(t *testing.T) {
	dev := open(t, seerattn.Options{Threads: 1})
	caught := func(f func()) (value any) {
		defer func() { value = recover() }()
		f()
		return nil
	}
	var finished atomic.Bool
	args := heavy()
	args.Progress = func(done, total uint64) {
		if done == total {
			finished.Store(true)
		}
		panic("mine")
	}
	if value := caught(func() { _, _ = dev.Attention(background, args) }); value != "mine" {
		t.Errorf("the call panicked with %v", value)
	}
	if finished.Load() {
		t.Error("the work went on to its end")
	}
	ticket, err := dev.StartAttention(background, args)
	check(t, err)
	if value := caught(func() { _, _ = ticket.Wait() }); value != "mine" {
		t.Errorf("Wait panicked with %v", value)
	}
	value := caught(func() {
		_, _ = dev.LoadDir(background, goldenDir(t, "one-block"), seerattn.LoadOptions{Progress: args.Progress})
	})
	if value != "mine" {
		t.Errorf("LoadDir panicked with %v", value)
	}
	_, err = dev.Attention(background, light()) // nothing is left broken
	check(t, err)
}

func expectCancelled(t *testing.T, err error, cause error) {
	t.Helper()
	expectError(t, err, seerattn.ErrCancelled, "")
	if !errors.Is(err, cause) {
		t.Errorf("%v is not %v", err, cause)
	}
}

func TestCancel(t *testing.T) {
	dev := open(t, seerattn.Options{Threads: 1})
	args := heavy()
	reason := errors.New("a reason")
	start := time.Now()

	// In flight, and with a cause of its own.
	ctx, cancel := context.WithCancelCause(background)
	args.Progress = func(uint64, uint64) { cancel(reason) }
	_, err := dev.Attention(ctx, args)
	expectCancelled(t, err, context.Canceled)
	expectCancelled(t, err, reason)

	// Before the call.
	args.Progress = func(uint64, uint64) { t.Error("work was done for a context that had ended") }
	_, err = dev.Attention(ctx, args)
	expectCancelled(t, err, context.Canceled)
	_, err = dev.StartAttention(ctx, args)
	expectCancelled(t, err, reason)
	_, err = dev.LoadDir(ctx, goldenDir(t, "one-block"), seerattn.LoadOptions{})
	expectCancelled(t, err, context.Canceled)

	// By a deadline.
	args.Progress = nil
	ctx, stop := context.WithTimeout(background, 20*time.Millisecond)
	defer stop()
	_, err = dev.Attention(ctx, args)
	expectCancelled(t, err, context.DeadlineExceeded)

	// A ticket, with work of another one behind it that is not cancelled.
	ctx, stop = context.WithCancel(background)
	started := make(chan struct{})
	var once sync.Once
	args.Progress = func(uint64, uint64) { once.Do(func() { close(started) }) }
	ticket, err := dev.StartAttention(ctx, args)
	check(t, err)
	behind, err := dev.StartAttention(background, light())
	check(t, err)
	<-started
	stop()
	_, err = ticket.Wait()
	expectCancelled(t, err, context.Canceled)
	_, err = behind.Wait()
	check(t, err)

	// While loading.
	ctx, stop = context.WithCancel(background)
	defer stop()
	_, err = dev.LoadDir(ctx, goldenDir(t, "one-block"), seerattn.LoadOptions{Progress: func(uint64, uint64) {
		stop()
		time.Sleep(50 * time.Millisecond) // until the flag is set, on a goroutine of its own
	}})
	expectCancelled(t, err, context.Canceled)

	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("cancelling took %v: the work was done all the same", took)
	}
}

// The end of a context after its call has ended touches nothing.
func TestCancelRacesWithTheEnd(t *testing.T) {
	dev := open(t, seerattn.Options{Threads: 1})
	args := light()
	_, err := dev.Attention(background, args)
	check(t, err)
	for i := 0; i < 300; i++ {
		ctx, cancel := context.WithCancel(background)
		go func() {
			time.Sleep(time.Duration(i) * time.Microsecond)
			cancel()
		}()
		if _, err := dev.Attention(ctx, args); err != nil {
			expectCancelled(t, err, context.Canceled)
		}
	}
}

// Slices of work in flight live though nobody else holds them, and results are those of blocking calls.
func TestTickets(t *testing.T) {
	dev := open(t, seerattn.Options{})
	want := light()
	wantStats, err := dev.Attention(background, want)
	check(t, err)
	type started struct {
		ticket *seerattn.Ticket
		out    seerattn.Tensor
	}
	var all []started
	for i := 0; i < 100; i++ {
		args := light()
		ticket, err := dev.StartAttention(background, args)
		check(t, err)
		all = append(all, started{ticket, args.Out})
	}
	runtime.GC()
	garbage := make([][]float32, 64)
	for i := range garbage {
		garbage[i] = noise(4096, int64(i))
	}
	check(t, dev.Wait(background))
	for i, s := range all {
		stats, err := s.ticket.Wait()
		check(t, err)
		if !bytes.Equal(s.out.Bytes(), want.Out.Bytes()) {
			t.Fatalf("ticket %d computed something else", i)
		}
		if stats.DeviceNs == 0 || stats.WorkspaceBytes != wantStats.WorkspaceBytes {
			t.Fatalf("ticket %d has statistics %+v", i, stats)
		}
		<-s.ticket.Done()
		if again, err := s.ticket.Wait(); err != nil || again != stats {
			t.Fatalf("Wait again: %v, %v", again, err)
		}
	}
}

// Nobody waits, and the handles are closed at once.
func TestTicketsOutliveClose(t *testing.T) {
	dev := open(t, seerattn.Options{})
	c := loadGolden(t, goldenDir(t, "llama-tail"))
	model := loadDir(t, dev, c.dir)
	want := seerattn.NewTensor(seerattn.BF16, c.q.Shape()...)
	_, err := dev.Prefill(background, model, c.Layer, &seerattn.PrefillArgs{Q: c.q, K: c.k, V: c.v, Out: want})
	check(t, err)
	out := seerattn.NewTensor(seerattn.BF16, c.q.Shape()...)
	var tickets []*seerattn.Ticket
	for i := 0; i < 5; i++ {
		target := out
		if i > 0 {
			target = seerattn.NewTensor(seerattn.BF16, c.q.Shape()...)
		}
		ticket, err := dev.StartPrefill(background, model, c.Layer, &seerattn.PrefillArgs{Q: c.q, K: c.k, V: c.v, Out: target})
		check(t, err)
		tickets = append(tickets, ticket)
	}
	check(t, model.Close())
	check(t, dev.Close())
	runtime.GC()
	for _, ticket := range tickets {
		_, err := ticket.Wait()
		check(t, err)
	}
	if !bytes.Equal(out.Bytes(), want.Bytes()) {
		t.Error("the work of closed handles computed something else")
	}
}

func TestWait(t *testing.T) {
	dev := open(t, seerattn.Options{Threads: 1})
	check(t, dev.Wait(background)) // nothing to wait for
	work, stopWork := context.WithCancel(background)
	defer stopWork()
	ticket, err := dev.StartAttention(work, heavy())
	check(t, err)
	ctx, stop := context.WithTimeout(background, 20*time.Millisecond)
	defer stop()
	if err := dev.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait returned %v", err)
	}
	select {
	case <-ticket.Done():
		t.Error("the work was done before its time: make it heavier")
	default:
	}
	stopWork()
	check(t, dev.Wait(background)) // however the work went
	_, err = ticket.Wait()
	expectCancelled(t, err, context.Canceled)
}

func TestConcurrentCalls(t *testing.T) {
	dev := open(t, seerattn.Options{})
	c := loadGolden(t, goldenDir(t, "head-dim-64"))
	model := loadDir(t, dev, c.dir)
	want := seerattn.NewTensor(seerattn.BF16, c.q.Shape()...)
	_, err := dev.Prefill(background, model, c.Layer, &seerattn.PrefillArgs{Q: c.q, K: c.k, V: c.v, Out: want})
	check(t, err)
	var calls sync.WaitGroup
	for g := 0; g < 8; g++ {
		calls.Add(1)
		go func() {
			defer calls.Done()
			for i := 0; i < 5; i++ {
				out := seerattn.NewTensor(seerattn.BF16, c.q.Shape()...)
				args := &seerattn.PrefillArgs{Q: c.q, K: c.k, V: c.v, Out: out}
				if _, err := dev.Prefill(background, model, c.Layer, args); err != nil {
					t.Error(err)
				}
				if !bytes.Equal(out.Bytes(), want.Bytes()) {
					t.Error("a concurrent call computed something else")
				}
				// Errors are those of this goroutine's call, whatever the others fail with.
				args.Out = seerattn.NewTensor(seerattn.F32, c.q.Shape()...)
				_, err := dev.Prefill(background, model, c.Layer, args)
				expectError(t, err, seerattn.ErrDType, "out.dtype is f32")
				_, err = dev.Prefill(background, model, 1000+g, args)
				expectError(t, err, seerattn.ErrInvalidArgument, "layer")
			}
		}()
	}
	calls.Wait()
}
