"""seerattn: SeerAttention's learned block-sparse prefill attention, through libseerattn's C API.

    ctx = seerattn.Context()
    model = ctx.load("path/to/gates")
    result = ctx.prefill(model, 0, q, k, v)       # torch tensors, NumPy arrays, anything with DLPack or a buffer
    result.out, result.stats.density

`import seerattn.torch` for torch operators, `import seerattn.transformers` to sparsify Hugging Face models."""

from ._context import Context, devices
from ._errors import (
    BusyError,
    CacheStateError,
    CancelledError,
    DeviceLostError,
    DeviceOutOfMemoryError,
    DTypeError,
    FileError,
    FormatError,
    HandleError,
    InternalError,
    InvalidArgumentError,
    MemoryKindError,
    ModelMismatchError,
    OutOfBoundsError,
    OutOfMemoryError,
    SeerError,
    ShapeError,
    StrideError,
    StructError,
    UnsafeFileError,
    UnsupportedError,
)
from ._library import library_path, version
from ._model import Buffer, GateCache, Model
from ._options import Backend, DeviceInfo, GateConfig, LogLevel, Pool, Rope, Select, Stats
from ._tensor import DType, Tensor
from ._ticket import Cancel, Ticket

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "Buffer",
    "BusyError",
    "CacheStateError",
    "Cancel",
    "CancelledError",
    "Context",
    "DType",
    "DTypeError",
    "DeviceInfo",
    "DeviceLostError",
    "DeviceOutOfMemoryError",
    "FileError",
    "FormatError",
    "GateCache",
    "GateConfig",
    "HandleError",
    "InternalError",
    "InvalidArgumentError",
    "LogLevel",
    "MemoryKindError",
    "Model",
    "ModelMismatchError",
    "OutOfBoundsError",
    "OutOfMemoryError",
    "Pool",
    "Rope",
    "Select",
    "SeerError",
    "ShapeError",
    "Stats",
    "StrideError",
    "StructError",
    "Tensor",
    "Ticket",
    "UnsafeFileError",
    "UnsupportedError",
    "devices",
    "library_path",
    "version",
]
