"""The library's statuses as exceptions. Each is a SeerError and, where Python has a natural kind for it, that too."""

from __future__ import annotations

from typing import Dict, Tuple, Type

from . import _abi


class SeerError(Exception):
    """A call that failed. `status` is the header's number, `name` its name, `detail` what seer_last_error() said."""

    status: int = _abi.SEER_ERROR_INTERNAL
    name: str = "SEER_ERROR_INTERNAL"

    def __init__(self, detail: str) -> None:
        super().__init__(f"{self.name}: {detail}" if detail else self.name)
        self.detail = detail

    def __reduce__(self) -> Tuple[Type["SeerError"], Tuple[str]]:
        return type(self), (self.detail,)


class InvalidArgumentError(SeerError, ValueError):
    status, name = _abi.SEER_ERROR_INVALID_ARGUMENT, "SEER_ERROR_INVALID_ARGUMENT"


class StructError(SeerError):
    """The library and this package do not agree about a struct: one of them is too old for the other."""

    status, name = _abi.SEER_ERROR_STRUCT, "SEER_ERROR_STRUCT"


class HandleError(SeerError, ValueError):
    """An object that was closed, or that belongs to another device."""

    status, name = _abi.SEER_ERROR_HANDLE, "SEER_ERROR_HANDLE"


class ShapeError(SeerError, ValueError):
    status, name = _abi.SEER_ERROR_SHAPE, "SEER_ERROR_SHAPE"


class DTypeError(SeerError, TypeError):
    status, name = _abi.SEER_ERROR_DTYPE, "SEER_ERROR_DTYPE"


class StrideError(SeerError, ValueError):
    """Strides, alignment or overlap."""

    status, name = _abi.SEER_ERROR_STRIDE, "SEER_ERROR_STRIDE"


class MemoryKindError(SeerError, TypeError):
    status, name = _abi.SEER_ERROR_MEMORY_KIND, "SEER_ERROR_MEMORY_KIND"


class OutOfBoundsError(SeerError, IndexError):
    status, name = _abi.SEER_ERROR_OUT_OF_BOUNDS, "SEER_ERROR_OUT_OF_BOUNDS"


class UnsupportedError(SeerError, NotImplementedError):
    status, name = _abi.SEER_ERROR_UNSUPPORTED, "SEER_ERROR_UNSUPPORTED"


class OutOfMemoryError(SeerError, MemoryError):
    status, name = _abi.SEER_ERROR_OUT_OF_MEMORY, "SEER_ERROR_OUT_OF_MEMORY"


class DeviceOutOfMemoryError(SeerError, MemoryError):
    status, name = _abi.SEER_ERROR_DEVICE_OUT_OF_MEMORY, "SEER_ERROR_DEVICE_OUT_OF_MEMORY"


class DeviceLostError(SeerError, RuntimeError):
    """The context is dead. Also what a forked child gets from its parent's objects."""

    status, name = _abi.SEER_ERROR_DEVICE_LOST, "SEER_ERROR_DEVICE_LOST"


class CancelledError(SeerError):
    status, name = _abi.SEER_ERROR_CANCELLED, "SEER_ERROR_CANCELLED"


class FileError(SeerError, OSError):
    status, name = _abi.SEER_ERROR_IO, "SEER_ERROR_IO"

    def __str__(self) -> str:  # OSError's would look for an errno
        return f"{self.name}: {self.detail}"


class FormatError(SeerError, ValueError):
    """A malformed file."""

    status, name = _abi.SEER_ERROR_FORMAT, "SEER_ERROR_FORMAT"


class UnsafeFileError(SeerError, ValueError):
    """A .pth that wants to execute code when it is loaded."""

    status, name = _abi.SEER_ERROR_UNSAFE_FILE, "SEER_ERROR_UNSAFE_FILE"


class ModelMismatchError(SeerError, ValueError):
    """Weights and configuration, or tensors and model, do not fit."""

    status, name = _abi.SEER_ERROR_MODEL_MISMATCH, "SEER_ERROR_MODEL_MISMATCH"


class CacheStateError(SeerError, RuntimeError):
    """A gate cache that is full, or positions that do not follow those it holds."""

    status, name = _abi.SEER_ERROR_CACHE_STATE, "SEER_ERROR_CACHE_STATE"


class BusyError(SeerError, RuntimeError):
    """A call from inside a callback."""

    status, name = _abi.SEER_ERROR_BUSY, "SEER_ERROR_BUSY"


class InternalError(SeerError, RuntimeError):
    status, name = _abi.SEER_ERROR_INTERNAL, "SEER_ERROR_INTERNAL"


BY_STATUS: Dict[int, Type[SeerError]] = {
    kind.status: kind
    for kind in (
        InvalidArgumentError,
        StructError,
        HandleError,
        ShapeError,
        DTypeError,
        StrideError,
        MemoryKindError,
        OutOfBoundsError,
        UnsupportedError,
        OutOfMemoryError,
        DeviceOutOfMemoryError,
        DeviceLostError,
        CancelledError,
        FileError,
        FormatError,
        UnsafeFileError,
        ModelMismatchError,
        CacheStateError,
        BusyError,
        InternalError,
    )
}


def make_error(status: int, name: str, detail: str) -> SeerError:
    kind = BY_STATUS.get(status)
    if kind is not None:
        return kind(detail)
    error = SeerError(detail)  # a status that is newer than this package
    error.status, error.name = status, name
    error.args = (f"{name}: {detail}",)
    return error
