"""How blocks are chosen, how positions are encoded, what a gate looks like: the header's small structs as dataclasses."""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass, field
from typing import Optional, Sequence, Tuple, Union

from . import _abi
from ._errors import InvalidArgumentError


class Backend(enum.IntEnum):
    AUTO = _abi.SEER_BACKEND_AUTO
    CUDA = _abi.SEER_BACKEND_CUDA
    VULKAN = _abi.SEER_BACKEND_VULKAN
    CPU = _abi.SEER_BACKEND_CPU

    @classmethod
    def parse(cls, value: Union["Backend", str, int]) -> "Backend":
        try:
            return cls[value.upper()] if isinstance(value, str) else cls(value)
        except (KeyError, ValueError):
            names = ", ".join(name.lower() for name in cls.__members__)
            raise InvalidArgumentError(f"backend is {value!r}; expected one of {names}") from None


class LogLevel(enum.IntEnum):
    OFF = _abi.SEER_LOG_OFF
    ERROR = _abi.SEER_LOG_ERROR
    WARN = _abi.SEER_LOG_WARN
    INFO = _abi.SEER_LOG_INFO
    DEBUG = _abi.SEER_LOG_DEBUG


class Pool(enum.IntFlag):
    """Poolings of a gate, concatenated on the channel axis always in this order."""

    MAX = _abi.SEER_POOL_MAX
    MIN = _abi.SEER_POOL_MIN
    AVG = _abi.SEER_POOL_AVG


@dataclass(frozen=True)
class Select:
    """How blocks are chosen. Use the class methods; Select() is what the model's config.json says."""

    method: int = _abi.SEER_SELECT_MODEL
    value: float = 0.0
    last_dense_rows: int = 0
    """Block rows at the end that keep everything: 0 = the model's (2 without a model), -1 = none, n >= 1."""
    keep_first: bool = False
    """Also key block 0, where attention sinks are."""
    keep_diagonal: bool = False

    @classmethod
    def model(cls, *, last_dense_rows: int = 0, keep_first: bool = False, keep_diagonal: bool = False) -> "Select":
        """As the model's config.json says."""
        return cls(_abi.SEER_SELECT_MODEL, 0.0, last_dense_rows, keep_first, keep_diagonal)

    @classmethod
    def threshold(
        cls, threshold: float, *, last_dense_rows: int = 0, keep_first: bool = False, keep_diagonal: bool = False
    ) -> "Select":
        """Blocks of probability > threshold; 5e-4 to 5e-3 is usual at 32k to 128k tokens."""
        return cls(_abi.SEER_SELECT_THRESHOLD, threshold, last_dense_rows, keep_first, keep_diagonal)

    @classmethod
    def ratio(
        cls, ratio: float, *, last_dense_rows: int = 0, keep_first: bool = False, keep_diagonal: bool = False
    ) -> "Select":
        """A share, in (0, 1], of the causal triangle: per row the top max(1, floor((1 - sqrt(1 - ratio)) nK)) blocks."""
        return cls(_abi.SEER_SELECT_RATIO, ratio, last_dense_rows, keep_first, keep_diagonal)

    @classmethod
    def budget(
        cls, tokens: int, *, last_dense_rows: int = 0, keep_first: bool = False, keep_diagonal: bool = False
    ) -> "Select":
        """Per row the top max(1, tokens / block size) blocks."""
        return cls(_abi.SEER_SELECT_BUDGET, tokens, last_dense_rows, keep_first, keep_diagonal)

    @classmethod
    def all(cls) -> "Select":
        """Every causal block: dense attention through the sparse path."""
        return cls(_abi.SEER_SELECT_ALL)

    def _fill(self, spec: _abi.seer_select_spec) -> None:
        spec.method, spec.last_dense_rows = self.method, self.last_dense_rows
        if self.method == _abi.SEER_SELECT_THRESHOLD:
            spec.threshold = self.value
        elif self.method == _abi.SEER_SELECT_RATIO:
            spec.ratio = self.value
        elif self.method == _abi.SEER_SELECT_BUDGET:
            spec.token_budget = int(self.value)
        spec.flags = self.flags

    @property
    def flags(self) -> int:
        return (_abi.SEER_SELECT_KEEP_DIAGONAL if self.keep_diagonal else 0) | (
            _abi.SEER_SELECT_KEEP_FIRST if self.keep_first else 0
        )

    @classmethod
    def _of(cls, spec: _abi.seer_select_spec) -> "Select":
        value = {
            _abi.SEER_SELECT_THRESHOLD: spec.threshold,
            _abi.SEER_SELECT_RATIO: spec.ratio,
            _abi.SEER_SELECT_BUDGET: spec.token_budget,
        }.get(spec.method, 0.0)
        flags = spec.flags
        return cls(
            spec.method,
            value,
            spec.last_dense_rows,
            bool(flags & _abi.SEER_SELECT_KEEP_FIRST),
            bool(flags & _abi.SEER_SELECT_KEEP_DIAGONAL),
        )


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding, half-rotation layout. Rope() is the model's in prefill and gate, none in attention."""

    kind: int = _abi.SEER_ROPE_DEFAULT
    theta: float = 0.0
    inv_freq: Tuple[float, ...] = ()
    attention_scaling: float = 1.0

    @classmethod
    def none(cls) -> "Rope":
        """q and k are used as they are."""
        return cls(_abi.SEER_ROPE_NONE)

    @classmethod
    def of_theta(cls, theta: float, attention_scaling: float = 1.0) -> "Rope":
        """Plain RoPE of this base, e.g. 10000."""
        return cls(_abi.SEER_ROPE_THETA, theta, (), attention_scaling)

    @classmethod
    def of_inv_freq(cls, inv_freq: Sequence[float], attention_scaling: float = 1.0) -> "Rope":
        """The inverse frequencies themselves: covers every scaling. Half as many as the channels rotated."""
        return cls(_abi.SEER_ROPE_INV_FREQ, 0.0, tuple(float(value) for value in inv_freq), attention_scaling)

    def _fill(self, rope: _abi.seer_rope) -> None:
        """The struct keeps what it points to alive."""
        rope.kind, rope.theta, rope.inv_freq_count = self.kind, self.theta, len(self.inv_freq)
        if self.kind in (_abi.SEER_ROPE_THETA, _abi.SEER_ROPE_INV_FREQ):
            rope.attention_scaling = self.attention_scaling
        if self.inv_freq:
            rope.inv_freq = (ctypes.c_float * len(self.inv_freq))(*self.inv_freq)

    @classmethod
    def _of(cls, rope: _abi.seer_rope) -> "Rope":
        values = tuple(rope.inv_freq[: rope.inv_freq_count]) if rope.inv_freq else ()
        return cls(rope.kind, rope.theta, values, rope.attention_scaling or 1.0)


@dataclass(frozen=True)
class GateConfig:
    """What a model's gates look like."""

    layers: int
    """How many; of a model loaded in part, those loaded."""
    q_heads: int
    kv_heads: int
    head_dim: int
    gate_dim: int
    """E, the width in which blocks are compared."""
    block_size: int = 64
    q_pool: Pool = Pool.AVG
    k_pool: Pool = Pool.MAX | Pool.MIN | Pool.AVG
    force_double: bool = False
    first_layer: int = 0
    """Calls name layers first_layer .. first_layer + layers - 1."""
    rope: Rope = field(default_factory=Rope)
    """The model's, of head_dim channels."""
    gate_rope: Rope = field(default_factory=Rope)
    """The gate's, of gate_dim channels; Rope() = as `rope`."""
    select: Select = field(default_factory=Select)
    """What Select() means in calls."""

    def _struct(self) -> _abi.seer_gate_config:
        config: _abi.seer_gate_config = _abi.init(_abi.seer_gate_config)
        for name in ("layers", "q_heads", "kv_heads", "head_dim", "gate_dim", "block_size", "q_pool", "k_pool"):
            setattr(config, name, getattr(self, name))
        config.force_double, config.first_layer = int(self.force_double), self.first_layer
        self.rope._fill(config.rope)
        self.gate_rope._fill(config.gate_rope)
        self.select._fill(config.select)
        return config

    @classmethod
    def _of(cls, config: _abi.seer_gate_config) -> "GateConfig":
        return cls(
            layers=config.layers,
            q_heads=config.q_heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            gate_dim=config.gate_dim,
            block_size=config.block_size,
            q_pool=Pool(config.q_pool),
            k_pool=Pool(config.k_pool),
            force_double=bool(config.force_double),
            first_layer=config.first_layer,
            rope=Rope._of(config.rope),
            gate_rope=Rope._of(config.gate_rope),
            select=Select._of(config.select),
        )


@dataclass(frozen=True)
class DeviceInfo:
    backend: Backend
    ordinal: int
    name: str
    detail: str
    """Kernels in use (instruction set, tier, driver), or why the device cannot be used."""
    memory_bytes: int
    vendor_id: int
    uuid: bytes
    dtypes: Tuple[str, ...]
    """Of q, k and v, those that it computes."""

    @classmethod
    def _of(cls, info: _abi.seer_device_info) -> "DeviceInfo":
        from ._tensor import DType

        return cls(
            backend=Backend(info.backend),
            ordinal=info.ordinal,
            name=info.name.decode("utf-8", "replace"),
            detail=info.detail.decode("utf-8", "replace"),
            memory_bytes=info.memory_bytes,
            vendor_id=info.vendor_id,
            uuid=bytes(info.uuid),
            dtypes=tuple(kind.name for kind in DType if info.dtype_bits >> kind & 1),
        )


@dataclass(frozen=True)
class Stats:
    """Of a call that is done."""

    blocks_kept: int
    """Over batch, heads and rows, of calls that select."""
    blocks_causal: int
    fallback_rows: int
    """Rows that would have kept nothing and kept their diagonal block."""
    workspace_bytes: int
    device_ns: int
    gate_ns: int
    attend_ns: int

    @property
    def density(self) -> Optional[float]:
        """Blocks kept over blocks of the causal triangle; None for calls that select nothing."""
        return self.blocks_kept / self.blocks_causal if self.blocks_causal else None

    @classmethod
    def _of(cls, stats: _abi.seer_stats) -> "Stats":
        return cls(*(getattr(stats, name) for name in cls.__dataclass_fields__))
