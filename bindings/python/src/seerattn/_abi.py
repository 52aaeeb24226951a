"""capi/include/seerattn/seerattn.h in ctypes: constants, structs and prototypes under the header's names. The header says
what everything means; tests/test_layout.py compares this file with tests/abi/layout.json."""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, c_char, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t
from ctypes import c_uint8, c_uint32, c_uint64, c_void_p
from typing import Any, Dict, List, Tuple

SEER_VERSION_MAJOR, SEER_VERSION_MINOR, SEER_VERSION_PATCH = 0, 1, 0
SEER_VERSION = SEER_VERSION_MAJOR << 16 | SEER_VERSION_MINOR << 8 | SEER_VERSION_PATCH
SEER_TICKET_ALL = 2**64 - 1

SEER_OK = 0
SEER_NOT_READY = 1
SEER_TIMEOUT = 2
SEER_ERROR_INVALID_ARGUMENT = -1
SEER_ERROR_STRUCT = -2
SEER_ERROR_HANDLE = -3
SEER_ERROR_SHAPE = -4
SEER_ERROR_DTYPE = -5
SEER_ERROR_STRIDE = -6
SEER_ERROR_MEMORY_KIND = -7
SEER_ERROR_OUT_OF_BOUNDS = -8
SEER_ERROR_UNSUPPORTED = -9
SEER_ERROR_OUT_OF_MEMORY = -10
SEER_ERROR_DEVICE_OUT_OF_MEMORY = -11
SEER_ERROR_DEVICE_LOST = -12
SEER_ERROR_CANCELLED = -13
SEER_ERROR_IO = -14
SEER_ERROR_FORMAT = -15
SEER_ERROR_UNSAFE_FILE = -16
SEER_ERROR_MODEL_MISMATCH = -17
SEER_ERROR_CACHE_STATE = -18
SEER_ERROR_BUSY = -19
SEER_ERROR_INTERNAL = -99

SEER_BACKEND_AUTO, SEER_BACKEND_CUDA, SEER_BACKEND_VULKAN, SEER_BACKEND_CPU = range(4)
SEER_DTYPE_NONE, SEER_F32, SEER_F16, SEER_BF16, SEER_I32, SEER_I64, SEER_U8, SEER_B32 = range(8)
SEER_MEM_NONE, SEER_MEM_HOST, SEER_MEM_CUDA, SEER_MEM_VULKAN, SEER_MEM_BUFFER = range(5)
SEER_SELECT_MODEL, SEER_SELECT_THRESHOLD, SEER_SELECT_RATIO, SEER_SELECT_BUDGET, SEER_SELECT_ALL = range(5)
SEER_SELECT_KEEP_DIAGONAL, SEER_SELECT_KEEP_FIRST = 1, 2
SEER_ROPE_DEFAULT, SEER_ROPE_NONE, SEER_ROPE_THETA, SEER_ROPE_INV_FREQ = range(4)
SEER_LOG_OFF, SEER_LOG_ERROR, SEER_LOG_WARN, SEER_LOG_INFO, SEER_LOG_DEBUG = range(5)
SEER_POOL_MAX, SEER_POOL_MIN, SEER_POOL_AVG = 1, 2, 4
SEER_CONTEXT_REFERENCE = 1
SEER_LOAD_SAFETENSORS_ONLY = 1
SEER_GATE_LOGITS = 1
SEER_SUBMIT_BLOCKING, SEER_SUBMIT_USE_STREAM = 1, 2

# Callbacks. The GIL is taken on entry, on whichever thread the library calls from.
seer_log_fn = CFUNCTYPE(None, c_void_p, c_int32, c_void_p, c_size_t)
seer_progress_fn = CFUNCTYPE(c_int32, c_void_p, c_uint64, c_uint64)
seer_done_fn = CFUNCTYPE(None, c_void_p, c_uint64, c_int32)
seer_release_fn = CFUNCTYPE(None, c_void_p)


class seer_tensor(ctypes.Structure):
    _fields_ = [
        ("mem", c_int32),
        ("dtype", c_int32),
        ("ndim", c_int32),
        ("reserved0", c_uint32),
        ("data", c_void_p),
        ("vk_buffer", c_uint64),
        ("buffer", c_void_p),
        ("offset", c_uint64),
        ("size", c_uint64),
        ("shape", c_int64 * 4),
        ("stride", c_int64 * 4),
        ("reserved1", c_uint64),
    ]


class seer_select_spec(ctypes.Structure):
    _fields_ = [
        ("method", c_int32),
        ("last_dense_rows", c_int32),
        ("threshold", c_double),
        ("ratio", c_double),
        ("token_budget", c_int64),
        ("flags", c_uint32),
        ("reserved", c_uint32),
    ]


class seer_rope(ctypes.Structure):
    _fields_ = [
        ("kind", c_int32),
        ("inv_freq_count", c_uint32),
        ("theta", c_double),
        ("attention_scaling", c_double),
        ("inv_freq", POINTER(c_float)),
        ("reserved", c_uint64 * 2),
    ]


class seer_device_info(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("backend", c_int32),
        ("ordinal", c_int32),
        ("vendor_id", c_uint32),
        ("uuid", c_uint8 * 16),
        ("memory_bytes", c_uint64),
        ("dtype_bits", c_uint64),
        ("name", c_char * 256),
        ("detail", c_char * 256),
    ]


class seer_allocator(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("host_alloc", CFUNCTYPE(c_void_p, c_void_p, c_uint64, c_uint64)),
        ("host_free", CFUNCTYPE(None, c_void_p, c_void_p, c_uint64)),
        ("device_alloc", CFUNCTYPE(c_void_p, c_void_p, c_uint64, c_void_p)),
        ("device_free", CFUNCTYPE(None, c_void_p, c_void_p, c_uint64, c_void_p)),
        ("user", c_void_p),
        ("release", seer_release_fn),
    ]


class seer_context_params(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("backend", c_int32),
        ("device", c_int32),
        ("threads", c_int32),
        ("flags", c_uint64),
        ("allocator", POINTER(seer_allocator)),
        ("log", seer_log_fn),
        ("log_user", c_void_p),
        ("log_release", seer_release_fn),
        ("log_level", c_int32),
        ("reserved", c_uint32),
        ("workspace_limit", c_uint64),
    ]


class seer_load_params(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("first_layer", c_int32),
        ("layer_count", c_int32),
        ("first_kv_head", c_int32),
        ("kv_head_count", c_int32),
        ("max_file_bytes", c_uint64),
        ("cancel", c_void_p),
        ("progress", seer_progress_fn),
        ("progress_user", c_void_p),
    ]


class seer_gate_config(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("layers", c_int32),
        ("q_heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("gate_dim", c_int32),
        ("block_size", c_int32),
        ("q_pool", c_int32),
        ("k_pool", c_int32),
        ("force_double", c_int32),
        ("first_layer", c_int32),
        ("reserved", c_uint32),
        ("rope", seer_rope),
        ("gate_rope", seer_rope),
        ("select", seer_select_spec),
    ]


class seer_gate_weights(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("reserved", c_uint32), ("wq", seer_tensor), ("wk", seer_tensor)]


class seer_gate_cache_params(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("sequences", c_int32), ("max_tokens", c_int64)]


class seer_sequences(ctypes.Structure):
    _fields_ = [("q", POINTER(c_int32)), ("k", POINTER(c_int32)), ("count", c_int32), ("reserved", c_uint32)]


class seer_prefill_desc(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("q", seer_tensor),
        ("k", seer_tensor),
        ("v", seer_tensor),
        ("out", seer_tensor),
        ("lse", seer_tensor),
        ("scores", seer_tensor),
        ("mask", seer_tensor),
        ("sequences", seer_sequences),
        ("select", seer_select_spec),
        ("rope", seer_rope),
        ("softmax_scale", c_double),
        ("cache", c_void_p),
        ("total_len", c_int64),
    ]


class seer_gate_desc(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("q", seer_tensor),
        ("k", seer_tensor),
        ("scores", seer_tensor),
        ("mask", seer_tensor),
        ("sequences", seer_sequences),
        ("select", seer_select_spec),
        ("rope", seer_rope),
        ("cache", c_void_p),
        ("total_len", c_int64),
    ]


class seer_select_desc(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("scores", seer_tensor),
        ("mask", seer_tensor),
        ("sequences", seer_sequences),
        ("q_len", c_int64),
        ("k_len", c_int64),
        ("block_size", c_int32),
        ("reserved", c_uint32),
        ("select", seer_select_spec),
        ("total_len", c_int64),
    ]


class seer_attention_desc(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("q", seer_tensor),
        ("k", seer_tensor),
        ("v", seer_tensor),
        ("out", seer_tensor),
        ("lse", seer_tensor),
        ("mask", seer_tensor),
        ("sequences", seer_sequences),
        ("rope", seer_rope),
        ("softmax_scale", c_double),
        ("block_size", c_int32),
        ("reserved", c_uint32),
    ]


class seer_submit(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("cancel", c_void_p),
        ("progress", seer_progress_fn),
        ("progress_user", c_void_p),
        ("cuda_stream", c_void_p),
    ]


class seer_stats(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("blocks_kept", c_uint64),
        ("blocks_causal", c_uint64),
        ("fallback_rows", c_uint64),
        ("workspace_bytes", c_uint64),
        ("device_ns", c_uint64),
        ("gate_ns", c_uint64),
        ("attend_ns", c_uint64),
    ]


def init(struct: Any) -> Any:
    """SEER_INIT: a zeroed struct that knows its size."""
    return struct(struct_size=ctypes.sizeof(struct))


_handle, _out = c_void_p, POINTER(c_void_p)
_P = POINTER
PROTOTYPES: Dict[str, Tuple[Any, List[Any]]] = {
    "seer_version": (c_uint32, []),
    "seer_status_name": (c_char_p, [c_int32]),
    "seer_last_error": (c_char_p, []),
    "seer_device_count": (c_int32, [c_int32, _P(c_int32)]),
    "seer_device_get": (c_int32, [c_int32, c_int32, _P(seer_device_info)]),
    "seer_context_create": (c_int32, [_P(seer_context_params), _out]),
    "seer_context_info": (c_int32, [_handle, _P(seer_device_info)]),
    "seer_context_retain": (None, [_handle]),
    "seer_context_release": (None, [_handle]),
    "seer_model_load_dir": (c_int32, [_handle, c_char_p, _P(seer_load_params), _out]),
    "seer_model_load_memory": (c_int32, [_handle, c_char_p, c_uint64, c_void_p, c_uint64, _P(seer_load_params), _out]),
    "seer_model_create": (c_int32, [_handle, _P(seer_gate_config), _P(_P(seer_gate_weights)), _out]),
    "seer_model_save": (c_int32, [_handle, c_char_p]),
    "seer_model_config": (c_int32, [_handle, _P(seer_gate_config)]),
    "seer_model_retain": (None, [_handle]),
    "seer_model_release": (None, [_handle]),
    "seer_buffer_create": (c_int32, [_handle, c_uint64, c_uint32, _out]),
    "seer_buffer_address": (c_int32, [_handle, _out]),
    "seer_buffer_write": (c_int32, [_handle, c_uint64, c_void_p, c_uint64]),
    "seer_buffer_read": (c_int32, [_handle, c_uint64, c_void_p, c_uint64]),
    "seer_buffer_retain": (None, [_handle]),
    "seer_buffer_release": (None, [_handle]),
    "seer_cancel_create": (c_int32, [_out]),
    "seer_cancel_trigger": (None, [_handle]),
    "seer_cancel_release": (None, [_handle]),
    "seer_gate_cache_create": (c_int32, [_handle, _handle, _P(seer_gate_cache_params), _out]),
    "seer_gate_cache_length": (c_int32, [_handle, c_int32, c_int32, _P(c_int64)]),
    "seer_gate_cache_truncate": (c_int32, [_handle, c_int32, c_int64]),
    "seer_gate_cache_release": (None, [_handle]),
    "seer_prefill": (c_int32, [_handle, _handle, c_int32, _P(seer_prefill_desc), _P(seer_submit), _P(c_uint64)]),
    "seer_gate": (c_int32, [_handle, _handle, c_int32, _P(seer_gate_desc), _P(seer_submit), _P(c_uint64)]),
    "seer_select": (c_int32, [_handle, _P(seer_select_desc), _P(seer_submit), _P(c_uint64)]),
    "seer_attention": (c_int32, [_handle, _P(seer_attention_desc), _P(seer_submit), _P(c_uint64)]),
    "seer_prefill_workspace": (c_int32, [_handle, _handle, _P(seer_prefill_desc), _P(c_uint64)]),
    "seer_wait": (c_int32, [_handle, c_uint64, c_uint64]),
    "seer_on_done": (c_int32, [_handle, c_uint64, seer_done_fn, c_void_p]),
    "seer_ticket_stats": (c_int32, [_handle, c_uint64, _P(seer_stats)]),
}
