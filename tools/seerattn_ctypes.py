"""The part of libseerattn's C API that tools/demo.py --full calls, declared with ctypes. The header
capi/include/seerattn/seerattn.h says what everything means; the names are its names."""
from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_int64, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Optional, Sequence

F32, F16, BF16 = 1, 2, 3
SELECT_MODEL, SELECT_THRESHOLD, SELECT_RATIO, SELECT_BUDGET, SELECT_ALL = range(5)
_ELEMENT_SIZE = {F32: 4, F16: 2, BF16: 2}
_BACKENDS = {"auto": 0, "cuda": 1, "vulkan": 2, "cpu": 3}
_MEM_HOST = 1
_SUBMIT_BLOCKING = 1


class SeerError(RuntimeError):
    """A call's status and what seer_last_error() said."""


class seer_tensor(ctypes.Structure):
    _fields_ = [
        ("mem", c_int32), ("dtype", c_int32), ("ndim", c_int32), ("reserved0", c_uint32), ("data", c_void_p),
        ("vk_buffer", c_uint64), ("buffer", c_void_p), ("offset", c_uint64), ("size", c_uint64),
        ("shape", c_int64 * 4), ("stride", c_int64 * 4), ("reserved1", c_uint64),
    ]  # fmt: skip


class seer_select_spec(ctypes.Structure):
    _fields_ = [
        ("method", c_int32), ("last_dense_rows", c_int32), ("threshold", c_double), ("ratio", c_double),
        ("token_budget", c_int64), ("flags", c_uint32), ("reserved", c_uint32),
    ]  # fmt: skip


class seer_rope(ctypes.Structure):
    _fields_ = [
        ("kind", c_int32), ("inv_freq_count", c_uint32), ("theta", c_double), ("attention_scaling", c_double),
        ("inv_freq", POINTER(c_float)), ("reserved", c_uint64 * 2),
    ]  # fmt: skip


class seer_sequences(ctypes.Structure):
    _fields_ = [("q", POINTER(c_int32)), ("k", POINTER(c_int32)), ("count", c_int32), ("reserved", c_uint32)]


class seer_context_params(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("backend", c_int32), ("device", c_int32), ("threads", c_int32), ("flags", c_uint64),
        ("allocator", c_void_p), ("log", c_void_p), ("log_user", c_void_p), ("log_release", c_void_p),
        ("log_level", c_int32), ("reserved", c_uint32), ("workspace_limit", c_uint64),
    ]  # fmt: skip


class seer_device_info(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("backend", c_int32), ("ordinal", c_int32), ("vendor_id", c_uint32),
        ("uuid", c_uint8 * 16), ("memory_bytes", c_uint64), ("dtype_bits", c_uint64),
        ("name", ctypes.c_char * 256), ("detail", ctypes.c_char * 256),
    ]  # fmt: skip


class seer_prefill_desc(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("flags", c_uint32), ("q", seer_tensor), ("k", seer_tensor), ("v", seer_tensor),
        ("out", seer_tensor), ("lse", seer_tensor), ("scores", seer_tensor), ("mask", seer_tensor),
        ("sequences", seer_sequences), ("select", seer_select_spec), ("rope", seer_rope), ("softmax_scale", c_double),
        ("cache", c_void_p), ("total_len", c_int64),
    ]  # fmt: skip


class seer_submit(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("flags", c_uint32), ("cancel", c_void_p), ("progress", c_void_p),
        ("progress_user", c_void_p), ("cuda_stream", c_void_p),
    ]  # fmt: skip


class seer_stats(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("reserved", c_uint32), ("blocks_kept", c_uint64), ("blocks_causal", c_uint64),
        ("fallback_rows", c_uint64), ("workspace_bytes", c_uint64), ("device_ns", c_uint64), ("gate_ns", c_uint64),
        ("attend_ns", c_uint64),
    ]  # fmt: skip

    @property
    def density(self) -> float:
        return self.blocks_kept / self.blocks_causal


for _struct, _size in ((seer_tensor, 128), (seer_select_spec, 40), (seer_rope, 48), (seer_sequences, 24)):
    assert ctypes.sizeof(_struct) == _size, f"{_struct.__name__} is frozen at {_size} bytes"


def _init(struct: Any) -> Any:
    return struct(struct_size=ctypes.sizeof(struct))


def host_tensor(address: int, shape: Sequence[int], dtype: int) -> seer_tensor:
    """A packed row-major tensor in host memory, which must outlive the call it is passed to."""
    size = _ELEMENT_SIZE[dtype]
    for extent in shape:
        size *= extent
    view = seer_tensor(mem=_MEM_HOST, dtype=dtype, ndim=len(shape), data=address, size=size)
    view.shape[: len(shape)] = shape
    return view


class Seer:
    """A context and, after load(), the gates of a folder."""

    def __init__(self, library: Path, backend: str = "auto") -> None:
        self._lib = ctypes.CDLL(str(library))
        for name in ("seer_status_name", "seer_last_error"):
            getattr(self._lib, name).restype = c_char_p
        for name in ("seer_context_release", "seer_model_release"):
            getattr(self._lib, name).restype = None
            getattr(self._lib, name).argtypes = [c_void_p]
        self._context, self._model = c_void_p(), c_void_p()
        params = _init(seer_context_params)
        params.backend = _BACKENDS[backend]
        self._check(self._lib.seer_context_create(byref(params), byref(self._context)))

    def _check(self, status: int) -> None:
        if status < 0:
            name, text = self._lib.seer_status_name(c_int32(status)), self._lib.seer_last_error()
            raise SeerError(f"{name.decode()}: {text.decode()}")

    def device(self) -> str:
        info = _init(seer_device_info)
        self._check(self._lib.seer_context_info(self._context, byref(info)))
        return f"{info.name.decode()} ({info.detail.decode()})"

    def load(self, folder: Path) -> None:
        model = c_void_p()
        self._check(self._lib.seer_model_load_dir(self._context, str(folder).encode(), None, byref(model)))
        self._lib.seer_model_release(self._model)
        self._model = model

    def prefill(
        self, layer: int, q: seer_tensor, k: seer_tensor, v: seer_tensor, out: seer_tensor,
        select: Optional[seer_select_spec] = None,
    ) -> seer_stats:  # fmt: skip
        """All five stages; q and k before RoPE. Returns when out is written."""
        desc, submit, stats, ticket = _init(seer_prefill_desc), _init(seer_submit), _init(seer_stats), c_uint64()
        desc.q, desc.k, desc.v, desc.out = q, k, v, out
        desc.select = select or seer_select_spec()
        submit.flags = _SUBMIT_BLOCKING
        self._check(
            self._lib.seer_prefill(self._context, self._model, c_int32(layer), byref(desc), byref(submit), byref(ticket))
        )
        self._check(self._lib.seer_ticket_stats(self._context, ticket, byref(stats)))
        return stats

    def close(self) -> None:
        self._lib.seer_model_release(self._model)
        self._lib.seer_context_release(self._context)
        self._context, self._model = c_void_p(), c_void_p()

    def __enter__(self) -> "Seer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
