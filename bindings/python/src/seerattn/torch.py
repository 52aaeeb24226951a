"""torch operators: seerattn::prefill, seerattn::gate and seerattn::attention, for use in compiled and exported graphs.

They have fake (meta) kernels, never synchronise on CUDA, where they run on the current stream, and have no gradient: a
backward pass through them raises. Context's methods take torch tensors as well; the operators are for graphs."""

from __future__ import annotations

import threading
from typing import Any, Dict, NoReturn, Optional, Tuple

import torch

from ._context import Context
from ._errors import InvalidArgumentError, MemoryKindError
from ._model import Model, numbered
from ._options import Select

if not hasattr(torch.library, "custom_op"):
    raise ImportError(
        f"seerattn.torch needs torch 2.4 or later, this is {torch.__version__}; seerattn.Context takes tensors of any torch"
    )

_lock = threading.Lock()
_contexts: Dict[Tuple[str, int], Context] = {}


def context(device: Any = "cpu") -> Context:
    """The context that operators use for tensors of this device; made when first asked for."""
    place = torch.device(device)
    if place.type not in ("cpu", "cuda"):
        raise MemoryKindError(f"tensors are on {place}; expected cpu or cuda")
    index = 0
    if place.type == "cuda":
        index = torch.cuda.current_device() if place.index is None else place.index
    with _lock:
        found = _contexts.get((place.type, index))
        if found is None or found.closed:
            found = _contexts[place.type, index] = Context(place.type, device=index)
        return found


def load(folder: Any, device: Any = "cpu", **options: Any) -> Model:
    """Model.load for tensors of this device."""
    return Model.load(context(device), folder, **options)


def gates_id(model: Model) -> int:
    """The number under which operators know this model, as long as it lives."""
    return model._number


def _model(number: int) -> Model:
    model = numbered.get(number)
    if model is None:
        raise InvalidArgumentError(f"gates is {number}; expected seerattn.torch.gates_id(model) of a model that lives")
    return model


def _select(method: int, value: float, last_dense_rows: int, flags: int) -> Select:
    return Select(method, value, last_dense_rows, bool(flags & 2), bool(flags & 1))


def _dense(x: torch.Tensor) -> torch.Tensor:
    """With the innermost dimension contiguous, as the library wants it. Compilers choose layouts as they like."""
    return x if x.shape[-1] == 1 or x.stride(-1) == 1 else x.contiguous()


def _waits(x: torch.Tensor) -> bool:
    return x.device.type != "cuda"  # on CUDA the stream orders what follows


# ---- The operators: plain numbers and tensors only -----------------------------------------------------------------------


@torch.library.custom_op("seerattn::prefill", mutates_args=())
def _prefill(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gates: int,
    layer: int,
    method: int,
    value: float,
    last_dense_rows: int,
    flags: int,
    softmax_scale: float,
    total_len: int,
) -> torch.Tensor:
    ticket = context(q.device).prefill(
        _model(gates),
        layer,
        _dense(q),
        _dense(k),
        _dense(v),
        select=_select(method, value, last_dense_rows, flags),
        softmax_scale=softmax_scale,
        total_len=total_len,
        wait=_waits(q),
    )
    out: torch.Tensor = ticket.out
    return out


@_prefill.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gates: int,
    layer: int,
    method: int,
    value: float,
    last_dense_rows: int,
    flags: int,
    softmax_scale: float,
    total_len: int,
) -> torch.Tensor:
    return q.new_empty(q.shape)


@torch.library.custom_op("seerattn::gate", mutates_args=())
def _gate(
    q: torch.Tensor,
    k: torch.Tensor,
    gates: int,
    layer: int,
    block_size: int,
    method: int,
    value: float,
    last_dense_rows: int,
    flags: int,
    total_len: int,
) -> torch.Tensor:
    ticket = context(q.device).gate(
        _model(gates),
        layer,
        _dense(q),
        _dense(k),
        select=_select(method, value, last_dense_rows, flags),
        total_len=total_len,
        wait=_waits(q),
    )
    mask: torch.Tensor = ticket.mask
    return mask


@_gate.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    gates: int,
    layer: int,
    block_size: int,
    method: int,
    value: float,
    last_dense_rows: int,
    flags: int,
    total_len: int,
) -> torch.Tensor:
    rows, blocks = -(-q.shape[1] // block_size), -(-k.shape[1] // block_size)
    return q.new_empty((q.shape[0], q.shape[2], rows, -(-blocks // 32)), dtype=torch.int32)


@torch.library.custom_op("seerattn::attention", mutates_args=())
def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Optional[torch.Tensor], block_size: int, softmax_scale: float
) -> Tuple[torch.Tensor, torch.Tensor]:
    ticket = context(q.device).attention(
        _dense(q),
        _dense(k),
        _dense(v),
        mask=None if mask is None else _dense(mask),
        lse=True,
        block_size=block_size,
        softmax_scale=softmax_scale,
        wait=_waits(q),
    )
    return ticket.out, ticket.lse


@_attention.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Optional[torch.Tensor], block_size: int, softmax_scale: float
) -> Tuple[torch.Tensor, torch.Tensor]:
    return q.new_empty(q.shape), q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32)


def _no_gradient(ctx: Any, *gradients: Any) -> NoReturn:
    raise NotImplementedError(
        "seerattn computes attention forwards only: no gradient passes through it. Run it under torch.no_grad(), or train "
        "with another attention"
    )


_prefill.register_autograd(_no_gradient)
_attention.register_autograd(_no_gradient)


# ---- The same with Python's arguments ------------------------------------------------------------------------------------


def prefill(
    model: Model,
    layer: int,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    select: Optional[Select] = None,
    softmax_scale: float = 0.0,
    total_len: int = 0,
) -> torch.Tensor:
    """Gate and block-sparse attention. q [B, S, Hq, D], k and v [B, L, Hkv, D]; q and k before RoPE; gives out, like q."""
    s = select or Select()
    out: torch.Tensor = torch.ops.seerattn.prefill(
        q, k, v, gates_id(model), layer, s.method, float(s.value), s.last_dense_rows, s.flags, softmax_scale, total_len
    )
    return out


def gate(
    model: Model, layer: int, q: torch.Tensor, k: torch.Tensor, *, select: Optional[Select] = None, total_len: int = 0
) -> torch.Tensor:
    """The gate's block mask for attention(): int32 words [B, Hq, nQ, ceil(nK / 32)]. q and k before RoPE."""
    s = select or Select()
    mask: torch.Tensor = torch.ops.seerattn.gate(
        q,
        k,
        gates_id(model),
        layer,
        model.config.block_size,
        s.method,
        float(s.value),
        s.last_dense_rows,
        s.flags,
        total_len,
    )
    return mask


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Optional[torch.Tensor] = None,
    *,
    block_size: int = 64,
    softmax_scale: float = 0.0,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Causal attention over a mask's blocks (int32 words, or uint8 or bool a block), dense without: out, like q, and lse
    [B, Hq, S]. q and k as they are, with RoPE if the model has it."""
    out, lse = torch.ops.seerattn.attention(q, k, v, mask, block_size, softmax_scale)
    return out, lse
