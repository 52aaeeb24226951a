package seerattn_test

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"example.com/seerattn"
	"example.com/seerattn/internal/layout"
)

type abi struct {
	Structs map[string]struct {
		Size, Align uintptr
		Fields      []struct {
			Name         string
			Offset, Size uintptr
			Type         string
		}
	}
	Constants map[string]json.Number
	Functions []string
}

func loadABI(t *testing.T) (golden abi) {
	text, err := os.ReadFile("../../tests/abi/layout.json")
	if os.IsNotExist(err) {
		t.Skip("the ABI's golden file is not here: this is not the project's own tree")
	}
	check(t, err)
	check(t, json.Unmarshal(text, &golden))
	if len(golden.Structs) == 0 || len(golden.Constants) == 0 || len(golden.Functions) == 0 {
		t.Fatal("the golden file is empty")
	}
	return golden
}

// kindOf is what cgo makes of a C type, as far as it matters: its kind, and of what.
func kindOf(ctype string) string {
	array := ""
	if m := regexp.MustCompile(`^(.*)(\[\d+\])$`).FindStringSubmatch(ctype); m != nil {
		ctype, array = m[1], m[2]
	}
	ctype = strings.TrimPrefix(ctype, "const ")
	kinds := map[string]string{
		"int32_t": "int32", "uint32_t": "uint32", "int64_t": "int64", "uint64_t": "uint64", "uint8_t": "uint8",
		"char": "int8", "double": "float64", "void *": "unsafe.Pointer", "float *": "*float32", "int32_t *": "*int32",
	}
	switch ctype {
	case "seer_mem", "seer_dtype", "seer_backend", "seer_select_method", "seer_rope_kind", "seer_log_level":
		return array + "int32"
	case "seer_log_fn", "seer_progress_fn", "seer_release_fn":
		return "*[0]uint8"
	}
	switch {
	case kinds[ctype] != "":
		return array + kinds[ctype]
	case strings.Contains(ctype, "(*)"):
		return "*[0]uint8" // how cgo names pointers to functions
	case strings.HasSuffix(ctype, " *"):
		return "*" + strings.TrimSuffix(ctype, " *")
	}
	return array + ctype // a struct
}

func kindOfGo(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return "*" + kindOfGo(t.Elem())
	case reflect.Array:
		return fmt.Sprintf("[%d]", t.Len()) + kindOfGo(t.Elem())
	case reflect.Struct:
		return strings.TrimPrefix(t.Name(), "_Ctype_struct_")
	case reflect.UnsafePointer:
		return "unsafe.Pointer"
	default:
		return t.Kind().String()
	}
}

func TestStructLayout(t *testing.T) {
	golden := loadABI(t)
	for name := range layout.Structs {
		if _, ok := golden.Structs[name]; !ok {
			t.Errorf("%s is not in the golden file", name)
		}
	}
	for name, want := range golden.Structs {
		got, ok := layout.Structs[name]
		if !ok {
			t.Errorf("%s is missing from internal/layout", name)
			continue
		}
		if got.Size() != want.Size || uintptr(got.Align()) != want.Align {
			t.Errorf("%s: size %d, alignment %d; expected %d, %d", name, got.Size(), got.Align(), want.Size, want.Align)
		}
		var fields []reflect.StructField
		for i := 0; i < got.NumField(); i++ {
			if f := got.Field(i); f.Name != "_" { // padding
				fields = append(fields, f)
			}
		}
		if len(fields) != len(want.Fields) {
			t.Errorf("%s has %d fields; expected %d", name, len(fields), len(want.Fields))
			continue
		}
		for i, w := range want.Fields {
			// cgo puts an underscore before what is a keyword of Go.
			f := fields[i]
			if strings.TrimPrefix(f.Name, "_") != w.Name || f.Offset != w.Offset || f.Type.Size() != w.Size {
				t.Errorf("%s: %s at %d of %d bytes; expected %+v", name, f.Name, f.Offset, f.Type.Size(), w)
			}
			if got, want := kindOfGo(f.Type), kindOf(w.Type); got != want {
				t.Errorf("%s.%s is a %s; expected %s, as %s", name, w.Name, got, want, w.Type)
			}
		}
	}
}

func TestConstants(t *testing.T) {
	golden := loadABI(t)
	got := map[string]int64{
		"SEER_ERROR_INVALID_ARGUMENT":     int64(seerattn.ErrInvalidArgument),
		"SEER_ERROR_STRUCT":               int64(seerattn.ErrStruct),
		"SEER_ERROR_HANDLE":               int64(seerattn.ErrHandle),
		"SEER_ERROR_SHAPE":                int64(seerattn.ErrShape),
		"SEER_ERROR_DTYPE":                int64(seerattn.ErrDType),
		"SEER_ERROR_STRIDE":               int64(seerattn.ErrStride),
		"SEER_ERROR_MEMORY_KIND":          int64(seerattn.ErrMemoryKind),
		"SEER_ERROR_OUT_OF_BOUNDS":        int64(seerattn.ErrOutOfBounds),
		"SEER_ERROR_UNSUPPORTED":          int64(seerattn.ErrUnsupported),
		"SEER_ERROR_OUT_OF_MEMORY":        int64(seerattn.ErrOutOfMemory),
		"SEER_ERROR_DEVICE_OUT_OF_MEMORY": int64(seerattn.ErrDeviceOutOfMemory),
		"SEER_ERROR_DEVICE_LOST":          int64(seerattn.ErrDeviceLost),
		"SEER_ERROR_CANCELLED":            int64(seerattn.ErrCancelled),
		"SEER_ERROR_IO":                   int64(seerattn.ErrIO),
		"SEER_ERROR_FORMAT":               int64(seerattn.ErrFormat),
		"SEER_ERROR_UNSAFE_FILE":          int64(seerattn.ErrUnsafeFile),
		"SEER_ERROR_MODEL_MISMATCH":       int64(seerattn.ErrModelMismatch),
		"SEER_ERROR_CACHE_STATE":          int64(seerattn.ErrCacheState),
		"SEER_ERROR_BUSY":                 int64(seerattn.ErrBusy),
		"SEER_ERROR_INTERNAL":             int64(seerattn.ErrInternal),
		"SEER_BACKEND_AUTO":               int64(seerattn.BackendAuto),
		"SEER_BACKEND_CUDA":               int64(seerattn.BackendCUDA),
		"SEER_BACKEND_VULKAN":             int64(seerattn.BackendVulkan),
		"SEER_BACKEND_CPU":                int64(seerattn.BackendCPU),
		"SEER_F32":                        int64(seerattn.F32),
		"SEER_F16":                        int64(seerattn.F16),
		"SEER_BF16":                       int64(seerattn.BF16),
		"SEER_I32":                        int64(seerattn.I32),
		"SEER_I64":                        int64(seerattn.I64),
		"SEER_U8":                         int64(seerattn.U8),
		"SEER_B32":                        int64(seerattn.B32),
		"SEER_SELECT_MODEL":               int64(seerattn.SelectModel),
		"SEER_SELECT_THRESHOLD":           int64(seerattn.SelectThreshold),
		"SEER_SELECT_RATIO":               int64(seerattn.SelectRatio),
		"SEER_SELECT_BUDGET":              int64(seerattn.SelectBudget),
		"SEER_SELECT_ALL":                 int64(seerattn.SelectAll),
		"SEER_ROPE_DEFAULT":               int64(seerattn.RopeDefault),
		"SEER_ROPE_NONE":                  int64(seerattn.RopeNone),
		"SEER_ROPE_THETA":                 int64(seerattn.RopeTheta),
		"SEER_ROPE_INV_FREQ":              int64(seerattn.RopeInvFreq),
		"SEER_LOG_OFF":                    int64(seerattn.LogOff),
		"SEER_LOG_ERROR":                  int64(seerattn.LogError),
		"SEER_LOG_WARN":                   int64(seerattn.LogWarn),
		"SEER_LOG_INFO":                   int64(seerattn.LogInfo),
		"SEER_LOG_DEBUG":                  int64(seerattn.LogDebug),
		"SEER_POOL_MAX":                   int64(seerattn.PoolMax),
		"SEER_POOL_MIN":                   int64(seerattn.PoolMin),
		"SEER_POOL_AVG":                   int64(seerattn.PoolAvg),
	}
	for name, value := range layout.Constants {
		got[name] = int64(value)
	}
	for name, want := range golden.Constants {
		value, ok := got[name]
		delete(got, name)
		var number int64
		if err := json.Unmarshal([]byte(want), &number); err != nil { // SEER_TICKET_ALL
			var unsigned uint64
			check(t, json.Unmarshal([]byte(want), &unsigned))
			number = int64(unsigned)
		}
		if !ok {
			t.Errorf("%s is not bound", name)
		} else if value != number {
			t.Errorf("%s is %d; expected %d", name, value, number)
		}
	}
	for name := range got {
		t.Errorf("%s is not in the golden file", name)
	}
}

// The name that the library gives a status is its constant's.
func TestStatusNames(t *testing.T) {
	for name, number := range loadABI(t).Constants {
		if strings.HasPrefix(name, "SEER_ERROR_") {
			value, err := number.Int64()
			check(t, err)
			if got := seerattn.Status(value).Error(); got != name {
				t.Errorf("status %d is %s; expected %s", value, got, name)
			}
		}
	}
}

// Every function of the C API is called, but those that Go has no use for.
func TestFunctions(t *testing.T) {
	unused := map[string]bool{"seer_context_retain": true, "seer_model_retain": true, "seer_buffer_retain": true}
	var source strings.Builder
	for _, name := range []string{"shim.c", "context.go", "status.go", "call.go", "model.go", "buffer.go", "cache.go"} {
		text, err := os.ReadFile(name)
		check(t, err)
		source.Write(text)
	}
	for _, name := range loadABI(t).Functions {
		if called := regexp.MustCompile(`\b` + name + `\(`).MatchString(source.String()); called == unused[name] {
			t.Errorf("%s: called %v", name, called)
		}
	}
}

func TestHeaderIsTheLibrarys(t *testing.T) {
	ours, err := os.ReadFile("seerattn.h")
	check(t, err)
	theirs, err := os.ReadFile("../../capi/include/seerattn/seerattn.h")
	if os.IsNotExist(err) {
		t.Skip("the library's header is not here: this is not the project's own tree")
	}
	check(t, err)
	if string(ours) != string(theirs) {
		t.Error("bindings/go/seerattn.h is not capi/include/seerattn/seerattn.h: copy it")
	}
}
