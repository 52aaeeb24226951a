"""Model: gate weights. Buffer: device memory. GateCache: what chunked prefill remembers."""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
import weakref
from ctypes import byref, c_int64, c_void_p
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple, Union

from . import _abi
from ._dlpack import Exported, packed
from ._errors import InvalidArgumentError, OutOfBoundsError
from ._handles import Handle, Use
from ._library import library
from ._options import GateConfig
from ._tensor import DType, Tensor, _wrap, view
from ._ticket import Cancel, Progress, ProgressEntry, call_progress, register, unregister

if TYPE_CHECKING:
    from ._context import Context

# Models by number: operators in graphs can pass a number and no object.
numbered: "weakref.WeakValueDictionary[int, Model]" = weakref.WeakValueDictionary()
_numbers = itertools.count(1)

Weights = Union[Any, Tuple[Any, Any]]


def _context_use(context: "Context") -> Use:
    from ._context import Context

    return Use(context, Context)


class _LoadParams:
    """seer_load_params for the length of a call."""

    def __init__(self, options: "dict[str, Any]") -> None:
        known = {"first_layer", "layer_count", "first_kv_head", "kv_head_count", "max_file_bytes"}
        self.params = _abi.init(_abi.seer_load_params)
        cancel: Optional[Cancel] = options.pop("cancel", None)
        progress: Optional[Progress] = options.pop("progress", None)
        if options.pop("safetensors_only", False):
            self.params.flags = _abi.SEER_LOAD_SAFETENSORS_ONLY
        for name, value in options.items():
            if name not in known:
                raise TypeError(f"unexpected argument {name!r}")
            setattr(self.params, name, value)
        self._use = Use(cancel, Cancel)
        self.params.cancel = self._use.pointer
        self._entry = ProgressEntry(progress) if progress is not None else None
        self._number: Optional[int] = None
        if self._entry is not None:
            self._number = register(self._entry)
            self.params.progress, self.params.progress_user = call_progress, self._number

    def __enter__(self) -> Any:
        return byref(self.params)

    def __exit__(self, *_: object) -> None:
        self._use.drop()
        unregister(self._number)
        if self._entry is not None and self._entry.error is not None:
            raise self._entry.error


class Model(Handle):
    """Gate weights, immutable. Thread-safe; usable with every context of the same device. Made by the class methods."""

    _config: GateConfig
    _number: int

    def __init__(self) -> None:
        raise TypeError("use Model.load, Model.from_memory or Model.from_arrays")

    @classmethod
    def _adopted(cls, pointer: c_void_p) -> "Model":
        lib = library()
        self = cls.__new__(cls)
        self._adopt(pointer, lib.seer_model_release)
        config = _abi.init(_abi.seer_gate_config)
        lib.check(lib.seer_model_config(pointer, byref(config)))
        self._config = GateConfig._of(config)
        self._number = next(_numbers)
        numbered[self._number] = self
        return self

    @classmethod
    def load(cls, context: "Context", folder: Any, **options: Any) -> "Model":
        """A Hugging Face style folder: config.json with attn_gate_weights.safetensors, else .pth, else the gates inside the
        model's own .safetensors.

        Options: first_layer, layer_count, first_kv_head, kv_head_count (a part of the model), max_file_bytes,
        safetensors_only, cancel, progress (bytes done and total; True cancels)."""
        lib, pointer = library(), c_void_p()
        with _context_use(context) as ctx, _LoadParams(options) as params:
            lib.check(lib.seer_model_load_dir(ctx, _path(folder), params, byref(pointer)))
        return cls._adopted(pointer)

    @classmethod
    def from_memory(cls, context: "Context", config_json: Union[str, bytes], weights: Any, **options: Any) -> "Model":
        """config.json's text and the image of a .safetensors or .pth file: any object with the buffer protocol. The options
        are load's."""
        lib, pointer = library(), c_void_p()
        text = config_json.encode("utf-8") if isinstance(config_json, str) else bytes(config_json)
        image = Exported(weights)
        with _context_use(context) as ctx, _LoadParams(options) as params:
            lib.check(
                lib.seer_model_load_memory(ctx, text, len(text), image.address, image.size, params, byref(pointer))
            )
        return cls._adopted(pointer)

    @classmethod
    def from_arrays(cls, context: "Context", config: GateConfig, layers: Sequence[Weights]) -> "Model":
        """Each layer's weights, copied: wk, or (wq, wk) where the gate has both. [heads, head_dim * poolings, gate_dim], host
        memory of f32, f16 or bf16."""
        lib, pointer = library(), c_void_p()
        if len(layers) != config.layers:
            raise InvalidArgumentError(f"layers has {len(layers)} entries; config.layers is {config.layers}")
        keep: List[Tensor] = []
        structs = []
        for number, entry in enumerate(layers):
            struct = _abi.init(_abi.seer_gate_weights)
            wq, wk = entry if isinstance(entry, tuple) else (None, entry)
            for name, array in (("wq", wq), ("wk", wk)):
                if array is not None:
                    tensor = view(array, f"layers[{number}].{name}")
                    tensor._fill(getattr(struct, name))
                    keep.append(tensor)
            structs.append(struct)
        pointers = (ctypes.POINTER(_abi.seer_gate_weights) * len(structs))(*(ctypes.pointer(s) for s in structs))
        with _context_use(context) as ctx:
            lib.check(lib.seer_model_create(ctx, byref(config._struct()), pointers, byref(pointer)))
        return cls._adopted(pointer)

    @property
    def config(self) -> GateConfig:
        return self._config

    def save(self, folder: Any) -> None:
        """Writes config.json and attn_gate_weights.safetensors into a folder that exists; each is complete or absent."""
        lib = library()
        with Use(self, Model) as pointer:
            lib.check(lib.seer_model_save(pointer, _path(folder)))

    def __repr__(self) -> str:
        c = self._config
        return f"<seerattn.Model of {c.layers} layers, {c.q_heads}/{c.kv_heads} heads of {c.head_dim}, blocks of {c.block_size}>"


class Buffer(Handle):
    """Memory of a context's device. The handle is thread-safe; racing on the contents is the caller's affair."""

    def __init__(self, context: "Context", size: int) -> None:
        lib, pointer = library(), c_void_p()
        if size < 0:
            raise InvalidArgumentError(f"size is {size}")
        with _context_use(context) as ctx:
            lib.check(lib.seer_buffer_create(ctx, size, 0, byref(pointer)))
        self.size = size
        self._adopt(pointer, lib.seer_buffer_release)

    @property
    def address(self) -> int:
        """CPU: a host pointer; CUDA: a device pointer. Valid until the buffer is closed and its last call done."""
        lib, address = library(), c_void_p()
        with Use(self, Buffer) as pointer:
            lib.check(lib.seer_buffer_address(pointer, byref(address)))
        return address.value or 0

    def write(self, source: Any, offset: int = 0) -> None:
        """Copies contiguous bytes in, in the queue's order; waits."""
        lib, image = library(), Exported(source)
        _require_contiguous(image)
        with Use(self, Buffer) as pointer:
            lib.check(lib.seer_buffer_write(pointer, _not_negative(offset), image.address, image.size))

    def read(self, size: Optional[int] = None, offset: int = 0) -> bytes:
        """Copies `size` bytes out (default: all that follow), in the queue's order; waits."""
        target = bytearray(max(self.size - offset, 0) if size is None else _not_negative(size))
        self.read_into(target, offset)
        return bytes(target)

    def read_into(self, target: Any, offset: int = 0) -> None:
        lib, image = library(), Exported(target)
        _require_contiguous(image)
        if image.readonly:
            raise InvalidArgumentError("target is read-only memory and would be written")
        with Use(self, Buffer) as pointer:
            lib.check(lib.seer_buffer_read(pointer, _not_negative(offset), image.address, image.size))

    def tensor(
        self,
        dtype: Union[DType, str],
        shape: Sequence[int],
        strides: Optional[Sequence[int]] = None,
        offset: int = 0,
    ) -> Tensor:
        """A view for calls; strides in elements, offset in bytes."""
        kind, extents = DType.parse(dtype), tuple(int(extent) for extent in shape)
        steps = packed(extents) if strides is None else tuple(int(stride) for stride in strides)
        tensor = _wrap(
            None,
            self,
            self._state.pointer,
            _abi.SEER_MEM_BUFFER,
            kind,
            extents,
            steps,
            False,
            self.size,
            _not_negative(offset),
        )
        tensor._check_inside("tensor")
        return tensor


class GateCache(Handle):
    """Per layer and sequence, the gate's K vectors of complete blocks, so that a chunk pools only what is new.

    A prefill or gate call that names it adds the blocks it computes; keys stay with the caller, each call passes all of
    them. Calls that name the same cache wait for each other."""

    def __init__(self, context: "Context", model: Model, max_tokens: int, sequences: int = 1) -> None:
        lib, pointer = library(), c_void_p()
        params = _abi.init(_abi.seer_gate_cache_params)
        params.sequences, params.max_tokens = sequences, max_tokens
        with _context_use(context) as ctx, Use(model, Model) as gates:
            lib.check(lib.seer_gate_cache_create(ctx, gates, byref(params), byref(pointer)))
        self._lock = threading.Lock()
        self._adopt(pointer, lib.seer_gate_cache_release)

    def length(self, layer: int, sequence: int = 0) -> int:
        """Tokens covered: a multiple of the block size, submitted work included."""
        lib, tokens = library(), c_int64()
        with Use(self, GateCache) as pointer, self._lock:
            lib.check(lib.seer_gate_cache_length(pointer, layer, sequence, byref(tokens)))
        return tokens.value

    def truncate(self, tokens: int = 0, sequence: int = -1) -> None:
        """Forgets what lies beyond `tokens` (rounded down to blocks) in all layers; sequence -1 = all."""
        lib = library()
        with Use(self, GateCache) as pointer, self._lock:
            lib.check(lib.seer_gate_cache_truncate(pointer, sequence, tokens))


def _path(folder: Any) -> bytes:
    path = os.fsencode(os.fspath(folder))
    if b"\0" in path:
        raise InvalidArgumentError("the folder's name has a NUL in it")
    return path


def _require_contiguous(image: Exported) -> None:
    if image.indirect or image.byte_strides != tuple(s * image.itemsize for s in packed(image.shape)):
        raise InvalidArgumentError("expected contiguous memory")


def _not_negative(value: int) -> int:
    if not 0 <= value < 2**64:
        raise OutOfBoundsError(f"{value} is no offset or size")
    return value
