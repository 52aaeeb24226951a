// Package layout lays open what cgo makes of seerattn.h, for the tests that compare it with the ABI's golden file. Files
// of tests cannot use cgo themselves.
package layout

// #include "../../seerattn.h"
import "C"

import "reflect"

// Structs are the C structs: their size, alignment, and each field's name, offset and type.
var Structs = map[string]reflect.Type{
	"seer_tensor":            reflect.TypeOf(C.seer_tensor{}),
	"seer_select_spec":       reflect.TypeOf(C.seer_select_spec{}),
	"seer_rope":              reflect.TypeOf(C.seer_rope{}),
	"seer_device_info":       reflect.TypeOf(C.seer_device_info{}),
	"seer_allocator":         reflect.TypeOf(C.seer_allocator{}),
	"seer_context_params":    reflect.TypeOf(C.seer_context_params{}),
	"seer_load_params":       reflect.TypeOf(C.seer_load_params{}),
	"seer_gate_config":       reflect.TypeOf(C.seer_gate_config{}),
	"seer_gate_weights":      reflect.TypeOf(C.seer_gate_weights{}),
	"seer_gate_cache_params": reflect.TypeOf(C.seer_gate_cache_params{}),
	"seer_sequences":         reflect.TypeOf(C.seer_sequences{}),
	"seer_prefill_desc":      reflect.TypeOf(C.seer_prefill_desc{}),
	"seer_gate_desc":         reflect.TypeOf(C.seer_gate_desc{}),
	"seer_select_desc":       reflect.TypeOf(C.seer_select_desc{}),
	"seer_attention_desc":    reflect.TypeOf(C.seer_attention_desc{}),
	"seer_submit":            reflect.TypeOf(C.seer_submit{}),
	"seer_stats":             reflect.TypeOf(C.seer_stats{}),
}

// Constants are those of the C API that the package uses under no name of its own.
var Constants = map[string]uint64{
	"SEER_VERSION_MAJOR":         C.SEER_VERSION_MAJOR,
	"SEER_VERSION_MINOR":         C.SEER_VERSION_MINOR,
	"SEER_VERSION_PATCH":         C.SEER_VERSION_PATCH,
	"SEER_VERSION":               C.SEER_VERSION,
	"SEER_TICKET_ALL":            C.SEER_TICKET_ALL,
	"SEER_OK":                    C.SEER_OK,
	"SEER_NOT_READY":             C.SEER_NOT_READY,
	"SEER_TIMEOUT":               C.SEER_TIMEOUT,
	"SEER_DTYPE_NONE":            C.SEER_DTYPE_NONE,
	"SEER_MEM_NONE":              C.SEER_MEM_NONE,
	"SEER_MEM_HOST":              C.SEER_MEM_HOST,
	"SEER_MEM_CUDA":              C.SEER_MEM_CUDA,
	"SEER_MEM_VULKAN":            C.SEER_MEM_VULKAN,
	"SEER_MEM_BUFFER":            C.SEER_MEM_BUFFER,
	"SEER_SELECT_KEEP_DIAGONAL":  C.SEER_SELECT_KEEP_DIAGONAL,
	"SEER_SELECT_KEEP_FIRST":     C.SEER_SELECT_KEEP_FIRST,
	"SEER_CONTEXT_REFERENCE":     C.SEER_CONTEXT_REFERENCE,
	"SEER_LOAD_SAFETENSORS_ONLY": C.SEER_LOAD_SAFETENSORS_ONLY,
	"SEER_GATE_LOGITS":           C.SEER_GATE_LOGITS,
	"SEER_SUBMIT_BLOCKING":       C.SEER_SUBMIT_BLOCKING,
	"SEER_SUBMIT_USE_STREAM":     C.SEER_SUBMIT_USE_STREAM,
}
