"""Tensor: the library's view of memory, and how other libraries' arrays become one without a copy."""

from __future__ import annotations

import ctypes
import enum
import sys
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Union

from . import _abi
from ._dlpack import Exported, from_dlpack, packed
from ._errors import DTypeError, InvalidArgumentError, MemoryKindError, OutOfBoundsError, ShapeError, StrideError


class DType(enum.IntEnum):
    F32 = _abi.SEER_F32
    F16 = _abi.SEER_F16
    BF16 = _abi.SEER_BF16
    I32 = _abi.SEER_I32
    I64 = _abi.SEER_I64
    U8 = _abi.SEER_U8
    B32 = _abi.SEER_B32  # 32 mask bits in a word

    @property
    def itemsize(self) -> int:
        return _ITEM_SIZE[self]

    @classmethod
    def parse(cls, value: Union["DType", str, int]) -> "DType":
        """Of a DType, its number or its name (that of safetensors too), in any case."""
        try:
            return cls[value.upper()] if isinstance(value, str) else cls(value)
        except (KeyError, ValueError):
            raise DTypeError(f"dtype is {value!r}; expected one of {', '.join(cls.__members__)}") from None


_ITEM_SIZE = {
    DType.F32: 4,
    DType.F16: 2,
    DType.BF16: 2,
    DType.I32: 4,
    DType.I64: 8,
    DType.U8: 1,
    DType.B32: 4,
}
_NUMPY_NAMES = {
    DType.F32: "float32",
    DType.F16: "float16",
    DType.I32: "int32",
    DType.I64: "int64",
    DType.U8: "uint8",
    DType.B32: "uint32",
}
_TORCH_NAMES = {**_NUMPY_NAMES, DType.BF16: "bfloat16", DType.B32: "int32"}  # torch's uint32 can do very little
_TYPESTR = {
    "<f4": DType.F32,
    "<f2": DType.F16,
    "<i4": DType.I32,
    "<i8": DType.I64,
    "|u1": DType.U8,
    "|b1": DType.U8,
    "<u4": DType.B32,
}
_FORMATS = {  # of the buffer protocol, with the item's size
    ("f", 4): DType.F32,
    ("e", 2): DType.F16,
    ("i", 4): DType.I32,
    ("l", 8): DType.I64,
    ("q", 8): DType.I64,
    ("B", 1): DType.U8,
    ("?", 1): DType.U8,
    ("I", 4): DType.B32,
}


def _check_extents(name: str, shape: Tuple[int, ...]) -> None:
    if not 1 <= len(shape) <= 4:
        raise ShapeError(f"{name} has {len(shape)} dimensions; expected 1 to 4")
    for extent in shape:
        if not 0 <= extent < 2**31:
            raise ShapeError(f"{name} has an extent of {extent}; expected 0 to 2^31 - 1")


class Tensor:
    """A typed, shaped view of memory: bytes of any object with the buffer protocol, a Buffer, or another library's array.

    Tensor(memory, dtype, shape): memory is bytes, a bytearray, an mmap, a memoryview, ... and must be contiguous; `offset`
    is in bytes, `strides` in elements (default: packed). Nothing is copied and memory is kept alive. What the call is
    given is checked against the memory's size."""

    shape: Tuple[int, ...]
    strides: Tuple[int, ...]
    dtype: DType
    readonly: bool

    def __init__(
        self,
        memory: Any,
        dtype: Union[DType, str],
        shape: Sequence[int],
        strides: Optional[Sequence[int]] = None,
        offset: int = 0,
    ) -> None:
        exported = Exported(memory)
        if exported.indirect or exported.byte_strides != tuple(s * exported.itemsize for s in packed(exported.shape)):
            raise StrideError("memory is not contiguous")
        if not 0 <= offset <= exported.size:
            raise OutOfBoundsError(f"offset is {offset}; memory has {exported.size} bytes")
        self._set(
            exported,
            exported.address + offset,
            _abi.SEER_MEM_HOST,
            DType.parse(dtype),
            tuple(int(extent) for extent in shape),
            packed(tuple(shape)) if strides is None else tuple(int(stride) for stride in strides),
            exported.readonly,
            exported.size - offset,
        )
        self._check_inside("tensor")

    def _set(
        self,
        owner: Any,
        address: int,
        mem: int,
        dtype: DType,
        shape: Tuple[int, ...],
        strides: Tuple[int, ...],
        readonly: bool,
        size: Optional[int] = None,
        offset: int = 0,
        device: int = 0,
    ) -> None:
        """size None: what shape and strides reach, for memory whose owner vouches for it."""
        self._owner, self._address, self._mem, self._offset, self._device = owner, address, mem, offset, device
        self.dtype, self.shape, self.strides, self.readonly = dtype, shape, strides, readonly
        self._size = self._reach() if size is None else size
        self._make: Optional[Callable[[Tuple[int, ...], DType], Any]] = None

    @classmethod
    def empty(cls, shape: Sequence[int], dtype: Union[DType, str]) -> "Tensor":
        """New host memory, zeroed."""
        kind = DType.parse(dtype)
        elements = 1
        for extent in shape:
            elements *= extent
        return cls(bytearray(elements * kind.itemsize), kind, shape)

    def _reach(self) -> int:
        """Bytes from the first element to the end of the last."""
        if 0 in self.shape:
            return 0
        return (sum((n - 1) * abs(s) for n, s in zip(self.shape, self.strides)) + 1) * self.dtype.itemsize

    def _check_inside(self, name: str) -> None:
        _check_extents(name, self.shape)
        if len(self.strides) != len(self.shape):
            raise ShapeError(f"{name} has {len(self.shape)} dimensions and {len(self.strides)} strides")
        if self._reach() > self._size - self._offset:
            raise OutOfBoundsError(
                f"{name} reaches {self._reach()} bytes; its memory has {max(self._size - self._offset, 0)} there"
            )

    @property
    def nbytes(self) -> int:
        """Of the elements, packed."""
        total = self.dtype.itemsize
        for extent in self.shape:
            total *= extent
        return total

    def _host(self) -> "ctypes.Array[ctypes.c_char]":
        if self._mem != _abi.SEER_MEM_HOST or self.strides != packed(self.shape):
            raise StrideError("only packed host memory has its bytes in a row")
        return (ctypes.c_char * self.nbytes).from_address(self._address)

    def tobytes(self) -> bytes:
        """A copy of the elements of packed host memory."""
        return bytes(self._host())

    @property
    def __array_interface__(self) -> Dict[str, Any]:
        """numpy.asarray(tensor) views host memory without a copy. NumPy has no bfloat16: a view of uint16 then."""
        if self._mem != _abi.SEER_MEM_HOST:
            raise AttributeError("not host memory")
        codes = {kind: code for code, kind in _TYPESTR.items() if code != "|b1"}
        size = self.dtype.itemsize
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": "<u2" if self.dtype == DType.BF16 else codes[self.dtype],
            "data": (self._address, self.readonly),
            "strides": tuple(stride * size for stride in self.strides),
        }

    def numpy(self) -> Any:
        """A NumPy view of host memory."""
        import numpy

        return numpy.asarray(self)

    def torch(self) -> Any:
        """A torch view of host memory. It must be writable: torch has no other kind."""
        import torch

        if self.readonly or self._mem != _abi.SEER_MEM_HOST:
            raise InvalidArgumentError(f"{self!r} is not writable host memory")
        array = (ctypes.c_char * self._reach()).from_address(self._address)
        array._owner = self  # type: ignore[attr-defined]  # torch keeps the array, and that the memory
        flat = torch.frombuffer(array, dtype=getattr(torch, _TORCH_NAMES[self.dtype]))
        return flat.as_strided(self.shape, self.strides)

    def __repr__(self) -> str:
        where = {_abi.SEER_MEM_HOST: "host", _abi.SEER_MEM_CUDA: "cuda", _abi.SEER_MEM_BUFFER: "buffer"}[self._mem]
        return f"seerattn.Tensor({self.dtype.name}, {list(self.shape)}, {where})"

    def _fill(self, struct: _abi.seer_tensor) -> None:
        struct.mem, struct.dtype, struct.ndim = self._mem, self.dtype, len(self.shape)
        struct.offset, struct.size = self._offset, self._size
        if self._mem == _abi.SEER_MEM_BUFFER:
            struct.buffer = self._address
        else:
            struct.data = self._address
        struct.shape[: len(self.shape)] = self.shape
        struct.stride[: len(self.shape)] = self.strides


def _wrap(make: Optional[Callable[[Tuple[int, ...], DType], Any]], *arguments: Any, **options: Any) -> Tensor:
    tensor = Tensor.__new__(Tensor)
    tensor._set(*arguments, **options)
    tensor._make = make
    return tensor


def _element_strides(name: str, shape: Tuple[int, ...], strides: Tuple[int, ...], size: int) -> Tuple[int, ...]:
    for extent, stride in zip(shape, strides):
        if extent > 1 and stride % size:
            raise StrideError(f"{name} has a stride of {stride} bytes; expected a multiple of its element's {size}")
    return tuple(stride // size for stride in strides)


def _of_torch(torch: Any, obj: Any, name: str) -> Tensor:
    kinds = {
        torch.float32: DType.F32,
        torch.float16: DType.F16,
        torch.bfloat16: DType.BF16,
        torch.int32: DType.I32,
        torch.int64: DType.I64,
        torch.uint8: DType.U8,
        torch.bool: DType.U8,
        getattr(torch, "uint32", None): DType.B32,
    }
    if obj.layout != torch.strided:
        raise StrideError(f"{name} is a {obj.layout} tensor; expected a dense one (torch.strided)")
    if obj.dtype not in kinds:
        raise DTypeError(f"{name} is a tensor of {obj.dtype}; expected float32, float16, bfloat16 or an integer")
    if obj.device.type == "cpu":
        mem = _abi.SEER_MEM_HOST
    elif obj.device.type == "cuda":
        mem = _abi.SEER_MEM_CUDA
    else:
        raise MemoryKindError(f"{name} is on {obj.device}; expected cpu or cuda")
    if obj.is_neg() or obj.is_conj():
        raise StrideError(f"{name} is a negated or conjugated view; call resolve_neg() or resolve_conj() first")

    def make(shape: Tuple[int, ...], dtype: DType) -> Any:
        return torch.empty(shape, dtype=getattr(torch, _TORCH_NAMES[dtype]), device=obj.device)

    return _wrap(
        make,
        obj.detach(),
        obj.data_ptr(),
        mem,
        kinds[obj.dtype],
        tuple(obj.shape),
        tuple(obj.stride()),
        False,
        device=obj.device.index or 0,
    )


def _of_numpy(obj: Any, name: str) -> Tensor:
    about = obj.__array_interface__
    dtype = getattr(obj, "dtype", None)
    if getattr(dtype, "name", "") == "bfloat16":  # of ml_dtypes: NumPy calls it two bytes of anything
        kind: Optional[DType] = DType.BF16
    else:
        kind = _TYPESTR.get(about["typestr"])
    if kind is None:
        raise DTypeError(f"{name} is an array of {dtype or about['typestr']}; expected float32, float16, bfloat16 or an integer")
    shape = tuple(about["shape"])
    size = kind.itemsize
    in_bytes = about.get("strides") or tuple(stride * size for stride in packed(shape))
    address, readonly = about["data"]

    def make(shape: Tuple[int, ...], wanted: DType) -> Any:
        import numpy

        return numpy.empty(shape, dtype if wanted == kind else _NUMPY_NAMES[wanted])

    strides = _element_strides(name, shape, in_bytes, size)
    return _wrap(make, obj, address, _abi.SEER_MEM_HOST, kind, shape, strides, bool(readonly))


def _of_buffer(obj: Any, name: str) -> Tensor:
    exported = Exported(obj)
    kind = _FORMATS.get((exported.format.lstrip("@=<"), exported.itemsize))
    if kind is None or exported.indirect:
        raise DTypeError(
            f"{name} is a buffer of format {exported.format!r}; expected 'f', 'e' or an integer's (for bfloat16: "
            "seerattn.Tensor(memory, 'BF16', shape))"
        )
    strides = _element_strides(name, exported.shape, exported.byte_strides, kind.itemsize)
    return _wrap(None, exported, exported.address, _abi.SEER_MEM_HOST, kind, exported.shape, strides, exported.readonly)


def view(obj: Any, name: str, *, out: bool = False, mask: bool = False, stream: Optional[int] = None) -> Tensor:
    """obj as a Tensor. `out`: it will be written. `mask`: 32-bit integers are words of mask bits."""
    torch = sys.modules.get("torch")
    if isinstance(obj, Tensor):
        tensor = obj
    elif torch is not None and isinstance(obj, torch.Tensor):
        tensor = _of_torch(torch, obj, name)
    elif isinstance(getattr(obj, "__array_interface__", None), dict):
        tensor = _of_numpy(obj, name)
    elif hasattr(obj, "__dlpack__") and hasattr(obj, "__dlpack_device__"):
        owner, address, mem, dtype, shape, strides, readonly, device = from_dlpack(obj, name, stream)
        tensor = _wrap(None, owner, address, mem, DType(dtype), shape, strides, readonly, device=device)
    else:
        try:
            tensor = _of_buffer(obj, name)
        except TypeError as error:
            if isinstance(error, DTypeError):
                raise
            raise TypeError(
                f"{name} is a {type(obj).__name__}; expected a seerattn.Tensor, a torch tensor, a NumPy array, or an object "
                "with DLPack or the buffer protocol"
            ) from None
    _check_extents(name, tensor.shape)
    if out and tensor.readonly:
        raise InvalidArgumentError(f"{name} is read-only memory and would be written")
    if not any(tensor.strides) and tensor._reach() < tensor.nbytes:
        # In C, strides of nothing but zeros mean packed.
        raise StrideError(f"{name} is one element broadcast to {list(tensor.shape)}; its memory must hold all of them")
    if mask and tensor.dtype == DType.I32:
        words = _wrap(tensor._make, tensor, tensor._address, tensor._mem, DType.B32, tensor.shape, tensor.strides, tensor.readonly)
        words._size, words._offset, words._device = tensor._size, tensor._offset, tensor._device
        return words
    return tensor
