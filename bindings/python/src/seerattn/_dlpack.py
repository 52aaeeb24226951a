"""The consumer's side of DLPack, versions 0 and 1, and of the buffer protocol, both through ctypes."""

from __future__ import annotations

import ctypes
import weakref
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int32, c_int64, c_ssize_t, c_uint8, c_uint16, c_uint32
from ctypes import c_uint64, c_void_p, py_object
from typing import Any, NamedTuple, Optional, Tuple

from . import _abi
from ._errors import DTypeError, InvalidArgumentError, MemoryKindError

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
LEGACY_STREAM = 1  # CUDA's default stream, as DLPack and the CUDA driver both number it


class Foreign(NamedTuple):
    """Somebody's memory. `owner` keeps it alive; strides are in elements."""

    owner: Any
    address: int
    mem: int
    dtype: int
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]
    readonly: bool
    device: int


class _DLDevice(ctypes.Structure):
    _fields_ = [("device_type", c_int32), ("device_id", c_int32)]


class _DLDataType(ctypes.Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device", _DLDevice),
        ("ndim", c_int32),
        ("dtype", _DLDataType),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class _DLManagedTensor(ctypes.Structure):
    _fields_ = [("dl_tensor", _DLTensor), ("manager_ctx", c_void_p), ("deleter", CFUNCTYPE(None, c_void_p))]


class _DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = [
        ("major", c_uint32),
        ("minor", c_uint32),
        ("manager_ctx", c_void_p),
        ("deleter", CFUNCTYPE(None, c_void_p)),
        ("flags", c_uint64),
        ("dl_tensor", _DLTensor),
    ]


_READ_ONLY = 1  # a flag of the versioned struct
_CODES = {  # (DLPack's type code, bits)
    (2, 32): _abi.SEER_F32,
    (2, 16): _abi.SEER_F16,
    (4, 16): _abi.SEER_BF16,
    (0, 32): _abi.SEER_I32,
    (0, 64): _abi.SEER_I64,
    (1, 8): _abi.SEER_U8,
    (1, 32): _abi.SEER_B32,
    (6, 8): _abi.SEER_U8,  # bool
}

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = c_void_p, [py_object, c_char_p]
_capsule_is = ctypes.pythonapi.PyCapsule_IsValid
_capsule_is.restype, _capsule_is.argtypes = c_int, [py_object, c_char_p]
_capsule_rename = ctypes.pythonapi.PyCapsule_SetName
_capsule_rename.restype, _capsule_rename.argtypes = c_int, [py_object, c_char_p]

# A capsule keeps the pointer to its name: these must never be freed.
_USED, _USED_VERSIONED = b"used_dltensor", b"used_dltensor_versioned"


class _Owner:
    """Of a consumed DLPack tensor: its deleter runs when this goes."""

    def __init__(self, managed: Any, address: int) -> None:
        if managed.deleter:
            # Not at exit: calls may still be in flight then.
            weakref.finalize(self, managed.deleter, address).atexit = False


def from_dlpack(obj: Any, name: str, stream: Optional[int]) -> Foreign:
    """Takes what obj.__dlpack__() gives over, which is once only. `stream` (a CUDA stream's handle, None = the legacy
    default stream) is where the memory will be used: its producer orders its own work before."""
    kind, device = obj.__dlpack_device__()
    kind = int(kind)
    if kind in (CUDA, CUDA_MANAGED):
        mem, options = _abi.SEER_MEM_CUDA, {"stream": stream or LEGACY_STREAM}  # 0 is forbidden by the protocol
    elif kind in (CPU, CUDA_HOST):
        mem, options = _abi.SEER_MEM_HOST, {}
    else:
        raise MemoryKindError(f"{name} is on DLPack device type {kind}; expected CPU (1) or CUDA (2)")
    try:
        capsule = obj.__dlpack__(max_version=(1, 0), **options)
    except TypeError:  # a producer from before DLPack 1.0
        capsule = obj.__dlpack__(**options)
    managed: Any
    if _capsule_is(capsule, b"dltensor_versioned"):
        address = _capsule_pointer(capsule, b"dltensor_versioned")
        managed, used = _DLManagedTensorVersioned.from_address(address), _USED_VERSIONED
        if managed.major != 1:
            raise InvalidArgumentError(f"{name} is of DLPack version {managed.major}.{managed.minor}; expected 1.x")
        readonly = bool(managed.flags & _READ_ONLY)
    elif _capsule_is(capsule, b"dltensor"):
        address = _capsule_pointer(capsule, b"dltensor")
        managed, used, readonly = _DLManagedTensor.from_address(address), _USED, False
    else:
        raise InvalidArgumentError(f"{name}.__dlpack__() gave {capsule!r}; expected a DLPack capsule not yet used")
    _capsule_rename(capsule, used)
    owner, tensor = _Owner(managed, address), managed.dl_tensor
    code = (tensor.dtype.code, tensor.dtype.bits)
    if code not in _CODES or tensor.dtype.lanes != 1:
        raise DTypeError(
            f"{name} has DLPack type code {code[0]} of {code[1]} bits in {tensor.dtype.lanes} lanes; expected a float of "
            "32 or 16 bits, a bfloat16, an integer or a bool"
        )
    shape = tuple(tensor.shape[: tensor.ndim]) if tensor.ndim else ()
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides and tensor.ndim else packed(shape)
    data = (tensor.data or 0) + tensor.byte_offset
    return Foreign(owner, data, mem, _CODES[code], shape, strides, readonly, int(device))


def packed(shape: Tuple[int, ...]) -> Tuple[int, ...]:
    """Row-major strides in elements."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(extent, 1)
    return tuple(reversed(strides))


class _PyBuffer(ctypes.Structure):
    _fields_ = [
        ("buf", c_void_p),
        ("obj", py_object),
        ("len", c_ssize_t),
        ("itemsize", c_ssize_t),
        ("readonly", c_int),
        ("ndim", c_int),
        ("format", c_char_p),
        ("shape", POINTER(c_ssize_t)),
        ("strides", POINTER(c_ssize_t)),
        ("suboffsets", POINTER(c_ssize_t)),
        ("internal", c_void_p),
    ]


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.restype, _get_buffer.argtypes = c_int, [py_object, POINTER(_PyBuffer), c_int]
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.restype, _release_buffer.argtypes = None, [POINTER(_PyBuffer)]
_FULL_RO = 0x011C  # PyBUF_FULL_RO: strides, format, read-only memory welcome


class Exported:
    """A view of an object's buffer: while this lives its memory neither moves nor goes (a bytearray cannot grow)."""

    def __init__(self, obj: Any) -> None:
        view = _PyBuffer()
        _get_buffer(obj, ctypes.byref(view), _FULL_RO)  # raises what the object raises
        weakref.finalize(self, _release_buffer, ctypes.byref(view)).atexit = False  # as above
        self.address: int = view.buf or 0
        self.size: int = view.len
        self.itemsize: int = view.itemsize
        self.readonly = bool(view.readonly)
        self.format: str = (view.format or b"B").decode("ascii", "replace")
        self.indirect = bool(view.suboffsets)
        self.shape: Tuple[int, ...] = tuple(view.shape[: view.ndim]) if view.ndim else ()
        self.byte_strides: Tuple[int, ...] = tuple(view.strides[: view.ndim]) if view.ndim else ()
