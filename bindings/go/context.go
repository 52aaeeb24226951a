package seerattn

// #include "shim.h"
import "C"

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/cgo"
	"unsafe"
)

// Version is that of the library that runs, such as "0.1.0".
func Version() string {
	v := C.seer_version()
	return fmt.Sprintf("%d.%d.%d", v>>16, v>>8&0xff, v&0xff)
}

// Backend is a kind of device.
type Backend int32

// The backends. BackendAuto takes the first that works: CUDA, Vulkan, CPU.
const (
	BackendAuto   Backend = C.SEER_BACKEND_AUTO
	BackendCUDA   Backend = C.SEER_BACKEND_CUDA
	BackendVulkan Backend = C.SEER_BACKEND_VULKAN
	BackendCPU    Backend = C.SEER_BACKEND_CPU
)

var backendNames = map[Backend]string{
	BackendAuto: "auto", BackendCUDA: "cuda", BackendVulkan: "vulkan", BackendCPU: "cpu",
}

// String returns "auto", "cuda", "vulkan" or "cpu".
func (b Backend) String() string {
	if name, ok := backendNames[b]; ok {
		return name
	}
	return fmt.Sprintf("Backend(%d)", int32(b))
}

// ParseBackend is the inverse of [Backend.String]. The empty string is BackendAuto.
func ParseBackend(name string) (Backend, error) {
	if name == "" {
		return BackendAuto, nil
	}
	for backend, known := range backendNames {
		if name == known {
			return backend, nil
		}
	}
	return 0, &Error{
		Status: ErrInvalidArgument,
		Detail: fmt.Sprintf("backend is %q; expected auto, cuda, vulkan or cpu", name),
	}
}

// DeviceInfo describes a device.
type DeviceInfo struct {
	Backend     Backend
	Ordinal     int
	VendorID    uint32   // PCI vendor; 0 for CPUs
	UUID        [16]byte // zero where unknown
	MemoryBytes uint64   // memory the device can use
	DTypes      []DType  // of q, k and v that it computes
	Name        string
	Detail      string // kernels in use: instruction set, tier, driver; or why the device cannot be used
}

func deviceInfo(in *C.seer_device_info) DeviceInfo {
	info := DeviceInfo{
		Backend:     Backend(in.backend),
		Ordinal:     int(in.ordinal),
		VendorID:    uint32(in.vendor_id),
		MemoryBytes: uint64(in.memory_bytes),
		Name:        C.GoString(&in.name[0]),
		Detail:      C.GoString(&in.detail[0]),
	}
	for i, b := range in.uuid {
		info.UUID[i] = byte(b)
	}
	for d := F32; d <= B32; d++ {
		if in.dtype_bits>>d&1 != 0 {
			info.DTypes = append(info.DTypes, d)
		}
	}
	return info
}

// Devices lists the devices of a backend. One that is not built in, or whose driver is missing, has none.
func Devices(backend Backend) ([]DeviceInfo, error) {
	r := C.seer_go_device_count(C.seer_backend(backend))
	if err := failure(r); err != nil {
		return nil, err
	}
	devices := make([]DeviceInfo, int(r.value))
	for i := range devices {
		info := C.seer_device_info{struct_size: C.uint32_t(unsafe.Sizeof(C.seer_device_info{}))}
		if err := failure(C.seer_go_device_get(C.seer_backend(backend), C.int32_t(i), &info)); err != nil {
			return nil, err
		}
		devices[i] = deviceInfo(&info)
	}
	return devices, nil
}

// LogLevel is a level of the library's messages.
type LogLevel int32

// The levels, and what they are in log/slog.
const (
	LogOff   LogLevel = C.SEER_LOG_OFF
	LogError LogLevel = C.SEER_LOG_ERROR // slog.LevelError
	LogWarn  LogLevel = C.SEER_LOG_WARN  // slog.LevelWarn
	LogInfo  LogLevel = C.SEER_LOG_INFO  // slog.LevelInfo
	LogDebug LogLevel = C.SEER_LOG_DEBUG // slog.LevelDebug
)

func slogLevel(level LogLevel) slog.Level {
	switch level {
	case LogError:
		return slog.LevelError
	case LogWarn:
		return slog.LevelWarn
	case LogInfo:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

// Options say which device a [Context] opens and how. The zero value takes the best device there is.
type Options struct {
	Backend Backend
	Device  int // ordinal among the backend's devices
	Threads int // CPU: 0 = one per core that this process may use
	// Reference asks for the plain reference kernels of the CPU: slow, for checking.
	Reference bool
	// WorkspaceLimit is the number of bytes that a call may take beyond its tensors; 0 = no limit. A call over it fails
	// with ErrOutOfMemory before it starts.
	WorkspaceLimit uint64
	// Logger hears the library's messages; nil = silent. It is called from any thread, several at once. Calling back
	// into the library from its handler fails with ErrBusy; a panic of the handler is dropped.
	Logger *slog.Logger
	// LogLevel is the most talkative level the library makes messages of; LogOff = LogWarn.
	LogLevel LogLevel
}

// Context is one device and one queue: its calls run one after the other, in the order in which they arrive.
type Context struct{ h handle }

// Open opens a device.
func Open(options Options) (*Context, error) {
	var k call
	defer k.finish()
	params := &C.seer_context_params{
		struct_size:     C.uint32_t(unsafe.Sizeof(C.seer_context_params{})),
		backend:         C.seer_backend(options.Backend),
		device:          k.int32("options.Device", options.Device),
		threads:         k.int32("options.Threads", options.Threads),
		log_level:       C.seer_log_level(options.LogLevel),
		workspace_limit: C.uint64_t(options.WorkspaceLimit),
	}
	if options.Reference {
		params.flags = C.SEER_CONTEXT_REFERENCE
	}
	if k.err != nil {
		return nil, k.err
	}
	var logger cgo.Handle
	if options.Logger != nil {
		logger = cgo.NewHandle(options.Logger)
	}
	r := C.seer_go_context_create(params, C.uintptr_t(logger))
	if err := failure(r); err != nil {
		if logger != 0 {
			logger.Delete()
		}
		return nil, err
	}
	c := &Context{handle{ptr: r.handle, release: func(p unsafe.Pointer) { C.seer_context_release((*C.seer_context)(p)) }}}
	runtime.SetFinalizer(c, (*Context).finalize)
	return c, nil
}

func (c *Context) finalize() { c.h.close() }

// Close gives the context back. It returns at once: calls in flight, and the models, buffers and caches made with it,
// keep what they need. Closing again does nothing. The error is always nil.
func (c *Context) Close() error {
	c.handle().close()
	return nil
}

func (c *Context) handle() *handle {
	if c == nil {
		return nil
	}
	return &c.h
}

// Info describes the context's device.
func (c *Context) Info() (DeviceInfo, error) {
	var k call
	defer k.finish()
	ctx := k.context(c)
	if k.err != nil {
		return DeviceInfo{}, k.err
	}
	info := C.seer_device_info{struct_size: C.uint32_t(unsafe.Sizeof(C.seer_device_info{}))}
	if err := failure(C.seer_go_context_info(ctx, &info)); err != nil {
		return DeviceInfo{}, err
	}
	return deviceInfo(&info), nil
}

// Wait waits until everything submitted so far is done, however it went. The end of ctx only ends the waiting, with the
// error of ctx.
func (c *Context) Wait(ctx context.Context) error {
	var k call
	defer k.finish()
	p := k.context(c)
	if ctx == nil {
		k.fail(ErrInvalidArgument, "the context.Context is nil")
	}
	if k.err != nil {
		return k.err
	}
	done := make(chan struct{})
	h := cgo.NewHandle(func(Status) { close(done) })
	if err := failure(C.seer_go_on_done(p, C.SEER_TICKET_ALL, C.uintptr_t(h))); err != nil {
		h.Delete()
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
