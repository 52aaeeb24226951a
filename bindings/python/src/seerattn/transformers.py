"""A drop-in attention for transformers' Llama and Qwen2 models:

    import seerattn.transformers

    model = AutoModelForCausalLM.from_pretrained(name)
    seerattn.transformers.sparsify(model, "path/to/gates")

Prompts are then read with SeerAttention, one token at a time is generated with torch's attention.

transformers' attention functions get q and k after RoPE; gates want them before. Hooks on q_proj and k_proj note their
outputs for the gate, and attention itself uses the rotated q, k and v that the model made, so every RoPE that the model
knows is right by construction. Keys of earlier chunks are only in the KV cache, rotated: they are turned back for the gate."""

from __future__ import annotations

import threading
import warnings
import weakref
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import torch
import transformers
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from . import torch as seer
from ._errors import InvalidArgumentError, ModelMismatchError, UnsupportedError
from ._model import Model
from ._options import GateConfig, Select, Stats
from ._ticket import Ticket

try:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import causal_mask_function, sdpa_mask
except ImportError:
    raise ImportError(
        f"seerattn.transformers needs transformers 4.56 or later, this is {transformers.__version__}"
    ) from None

NAME = "seerattn"
"""For attn_implementation=."""
MODEL_TYPES = ("llama", "qwen2")

Output = Tuple[torch.Tensor, None]


class _Captured(NamedTuple):
    """Of one attention layer's call, from its hooks to its attention function."""

    past: int  # tokens in the KV cache before it
    rope: Optional[torch.Tensor]  # cosines of the new tokens
    q: Optional[torch.Tensor] = None  # [B, S, H * D], before RoPE
    k: Optional[torch.Tensor] = None


class _Layer:
    """An attention module of a sparsified model."""

    def __init__(self, owner: "Sparse", module: torch.nn.Module, index: int) -> None:
        self.owner, self.index = owner, index
        self.projections = weakref.ref(module.q_proj), weakref.ref(module.k_proj)  # type: ignore[arg-type]
        self._local = threading.local()  # threads may share the model
        self.hooks = [
            module.register_forward_pre_hook(self._begin, with_kwargs=True),
            module.q_proj.register_forward_hook(self._note_q),  # type: ignore[union-attr]
            module.k_proj.register_forward_hook(self._note_k),  # type: ignore[union-attr]
        ]

    def _begin(self, module: torch.nn.Module, args: Any, kwargs: Dict[str, Any]) -> None:
        self._local.captured = None
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        if hidden.shape[1] == 1:
            return
        if (module.q_proj, module.k_proj) != tuple(ref() for ref in self.projections):
            raise InvalidArgumentError(
                f"layer {self.index}'s q_proj or k_proj was replaced after sparsify() (by an adapter?): call sparsify() again"
            )
        cache = kwargs.get("past_key_values", kwargs.get("past_key_value"))
        past = 0 if cache is None else int(cache.get_seq_length(self.index))
        rope = kwargs.get("position_embeddings")
        self._local.captured = _Captured(past, None if rope is None else rope[0])

    def _note_q(self, _: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
        captured: Optional[_Captured] = getattr(self._local, "captured", None)
        if captured is not None:
            self._local.captured = captured._replace(q=output.detach())

    def _note_k(self, _: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
        captured: Optional[_Captured] = getattr(self._local, "captured", None)
        if captured is not None:
            self._local.captured = captured._replace(k=output.detach())

    def take(self) -> Optional[_Captured]:
        captured: Optional[_Captured] = getattr(self._local, "captured", None)
        self._local.captured = None
        return captured


_layers: "weakref.WeakKeyDictionary[torch.nn.Module, _Layer]" = weakref.WeakKeyDictionary()


class Sparse:
    """What sparsify() gives. `select` may be changed at any time; remove() gives the model its own attention back."""

    select: Optional[Select]
    """How blocks are chosen; None = as the gates' config.json says."""
    min_tokens: int
    """Calls with fewer new tokens (speculative decoding's, say) are dense."""

    def __init__(
        self, model: Any, gates: Union[str, Path, Model], select: Optional[Select], min_tokens: Optional[int]
    ) -> None:
        self._model, self._folder = weakref.ref(model), gates
        self._gates: Dict[torch.device, Model] = {}
        self._tickets: Dict[int, Ticket] = {}
        self._rope: Optional[Tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = None
        modules = _attention_modules(model)
        first = next(modules[0].parameters()).device
        self.config: GateConfig = self.gates(torch.device("cpu") if first.type == "meta" else first).config
        _check_fit(model.config, self.config, len(modules))
        self.select = select
        self.min_tokens = self.config.block_size if min_tokens is None else min_tokens
        self._rotary = next((m.rotary_emb for m in model.modules() if hasattr(m, "rotary_emb")), None)
        for module in modules:
            old = _layers.get(module)
            if old is not None:
                old.owner.remove()
        self._before: str = model.config._attn_implementation
        self._owned: List[_Layer] = []
        for module in modules:
            layer = _layers[module] = _Layer(self, module, int(module.layer_idx))  # type: ignore[arg-type]
            self._owned.append(layer)
        model.set_attn_implementation(NAME)

    def gates(self, device: torch.device) -> Model:
        """The gates, for tensors of this device."""
        if isinstance(self._folder, Model):
            return self._folder
        found = self._gates.get(device)
        if found is None:
            found = self._gates[device] = seer.load(self._folder, device)
        return found

    def remove(self) -> None:
        """Takes the hooks off."""
        for layer in self._owned:
            for hook in layer.hooks:
                hook.remove()
        self._owned = []
        for module, layer in list(_layers.items()):
            if layer.owner is self:
                del _layers[module]
        model = self._model()
        if model is not None and model.config._attn_implementation == NAME:
            model.set_attn_implementation("sdpa" if self._before == NAME else self._before)

    @property
    def stats(self) -> Dict[int, Stats]:
        """Of each layer's latest prefill."""
        return {layer: ticket.stats for layer, ticket in sorted(self._tickets.items())}

    @property
    def density(self) -> float:
        """Blocks kept over blocks of the causal triangle, of all layers' latest prefill."""
        every = list(self.stats.values())
        causal = sum(stats.blocks_causal for stats in every)
        if not causal:
            raise InvalidArgumentError("no prompt was read with the gates yet")
        return sum(stats.blocks_kept for stats in every) / causal

    def unrotated(self, key: torch.Tensor, tokens: int, captured: _Captured) -> Optional[torch.Tensor]:
        """The first keys of a KV cache [B, L, H, D] before RoPE, in f32; None if their rotation is not known."""
        length, dim = key.shape[1], key.shape[3]
        rotary = self._rotary
        if rotary is None or captured.rope is None or getattr(rotary, "rope_type", "default") in ("dynamic", "longrope"):
            return None  # kinds that depend on the length turn earlier chunks by other angles
        memo = self._rope
        if memo is None or memo[0] is not captured.rope:
            positions = torch.arange(length, device=key.device)[None]
            cos, sin = rotary(torch.empty(0, dtype=torch.float32, device=key.device), positions)
            if cos.shape != (1, length, dim) or captured.rope.shape[-2:] != (length - tokens, dim):
                return None
            if not torch.allclose(cos[:, tokens:], captured.rope.float(), atol=2**-7):
                return None  # positions other than 0, 1, 2, ...
            memo = self._rope = (captured.rope, cos, sin)
        cos, sin = (x[:, :tokens, None] for x in memo[1:])
        keys = key[:, :tokens].float()
        low, high = keys.chunk(2, dim=-1)
        scaling = float(getattr(rotary, "attention_scaling", 1.0))
        return (keys * cos + torch.cat((high, -low), dim=-1) * sin) / scaling**2


def sparsify(
    model: Any,
    gates: Union[str, Path, Model],
    *,
    select: Optional[Select] = None,
    min_tokens: Optional[int] = None,
) -> Sparse:
    """Gives a transformers Llama or Qwen2 model SeerAttention for reading prompts.

    gates: a folder (see Model.load), a repository's name on the Hugging Face hub, or a Model of the device that the model
    is on. select: how blocks are chosen, default as the gates say. min_tokens: fewer new tokens than this are dense
    (default: the block size). Inference only: gradients raise."""
    if not isinstance(gates, Model) and not Path(gates).is_dir():
        from huggingface_hub import snapshot_download

        gates = snapshot_download(str(gates), allow_patterns=["config.json", "attn_gate_weights.*"])
    return Sparse(model, gates, select, min_tokens)


def _attention_modules(model: Any) -> List[torch.nn.Module]:
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in MODEL_TYPES:
        raise UnsupportedError(f"model_type is {kind!r}; expected one of {', '.join(MODEL_TYPES)}")
    modules = [m for m in model.modules() if all(hasattr(m, name) for name in ("q_proj", "k_proj", "layer_idx"))]
    if not modules:
        raise UnsupportedError(f"{type(model).__name__} has no attention layers with q_proj and k_proj")
    if any(getattr(module, "sliding_window", None) for module in modules):
        raise UnsupportedError("layers with a sliding window are not supported")
    return modules


def _check_fit(config: Any, gates: GateConfig, layers: int) -> None:
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    wanted = (layers, config.num_attention_heads, config.num_key_value_heads, dim)
    found = (gates.first_layer + gates.layers, gates.q_heads, gates.kv_heads, gates.head_dim)
    for name, a, b in zip(("layers", "query heads", "KV heads", "channels a head"), wanted, found):
        if a != b:
            raise ModelMismatchError(f"the model has {a} {name}, the gates have {b}")
    if gates.first_layer:
        raise ModelMismatchError(f"the gates begin with layer {gates.first_layer}; expected all layers")


# ---- What transformers calls ---------------------------------------------------------------------------------------------


def attention_mask(**arguments: Any) -> Optional[torch.Tensor]:
    """Prompts: None, or with padding the 2D mask [B, L] of tokens that are there. Else, and for masks that are not just
    causal, torch's 4D mask."""
    q_length = arguments["q_length"] if "q_length" in arguments else arguments["cache_position"].shape[0]
    causal = arguments.get("mask_function", causal_mask_function) is causal_mask_function
    if q_length > 1 and causal and not isinstance(q_length, torch.Tensor):
        padding: Optional[torch.Tensor] = arguments.get("attention_mask")
        return None if padding is None or bool(padding.all()) else padding
    mask: Optional[torch.Tensor] = sdpa_mask(**arguments)
    return mask


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Optional[torch.Tensor],
    dropout: float = 0.0,
    scaling: Optional[float] = None,
    **kwargs: Any,
) -> Output:
    """query [B, Hq, S, D], key and value [B, Hkv, L, D], rotated; gives [B, S, Hq, D]."""
    if query.shape[2] == 1:  # one token: torch's own, which a compiler may look into
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
        return out, None
    return _read_prompt(module, query, key, value, attention_mask, dropout, scaling, kwargs)


@torch.compiler.disable
def _read_prompt(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: Optional[torch.Tensor],
    dropout: float,
    scaling: Optional[float],
    kwargs: Dict[str, Any],
) -> Output:
    layer = _layers.get(module)
    captured = layer.take() if layer is not None else None
    if layer is None or captured is None:
        raise InvalidArgumentError(
            f'attn_implementation="{NAME}" without gates: call seerattn.transformers.sparsify(model, gates)'
        )
    if dropout:
        raise UnsupportedError(f"attention dropout is {dropout}; expected 0 (model.eval())")
    length = captured.past + query.shape[2]
    if mask is not None and mask.ndim != 2:
        _warn_dense("this call's attention mask is not just causal")
        out, _ = sdpa_attention_forward(module, query, key, value, mask, dropout, scaling, **kwargs)
        return out, None
    q, k, v = query.transpose(1, 2), key[:, :, :length].transpose(1, 2), value[:, :, :length].transpose(1, 2)
    q_gate, k_gate = (
        None if x is None else x.reshape(x.shape[0], x.shape[1], -1, q.shape[3]) for x in (captured.q, captured.k)
    )
    assert q_gate is not None and k_gate is not None
    scale = 0.0 if scaling is None else float(scaling)
    if mask is not None:
        return _padded(layer, captured, q, k, v, q_gate, k_gate, mask[:, :length].bool(), scale), None
    return _plain(layer, captured, q, k, v, q_gate, k_gate, scale), None


def _plain(
    layer: _Layer,
    captured: _Captured,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_gate: torch.Tensor,
    k_gate: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    owner, past, block = layer.owner, captured.past, layer.owner.config.block_size
    lead = -past % block  # new tokens that complete a block which the cache has begun: dense
    if q.shape[1] - lead < max(owner.min_tokens, 1):
        return seer.attention(q, k, v, softmax_scale=scale)[0]
    if past:
        earlier = owner.unrotated(k, past, captured)
        if earlier is None:
            _warn_dense("the rotation of the keys in the KV cache is not known")
            return seer.attention(q, k, v, softmax_scale=scale)[0]
        q_gate, k_gate = q_gate.float(), torch.cat((earlier, k_gate.float()), dim=1)
    device = q.device
    ticket = seer.context(device).gate(
        owner.gates(device), layer.index, q_gate[:, lead:], k_gate, select=owner.select, wait=device.type != "cuda"
    )
    owner._tickets[layer.index] = ticket
    out, _ = seer.attention(q[:, lead:], k, v, ticket.mask, block_size=block, softmax_scale=scale)
    if lead:
        first, _ = seer.attention(q[:, :lead], k[:, : past + lead], v[:, : past + lead], softmax_scale=scale)
        out = torch.cat((first, out), dim=1)
    return out


def _padded(
    layer: _Layer,
    captured: _Captured,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_gate: torch.Tensor,
    k_gate: torch.Tensor,
    there: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Packs the sequences: each is computed as if it were alone, its blocks counted from its first token. What the padding
    puts out is 0."""
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise UnsupportedError("batches with padding have no gradient: use torch.no_grad()")
    owner, context = layer.owner, seer.context(q.device)
    new = there[:, captured.past :]
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    lengths = [(a, b) for a, b in zip(new.sum(1).tolist(), there.sum(1).tolist()) if a]
    if not lengths:
        return out
    offsets = [[0], [0]]
    for pair in lengths:
        for sums, value in zip(offsets, pair):
            sums.append(sums[-1] + value)
    options: Dict[str, Any] = {"sequences": offsets[0], "sequences_k": offsets[1], "wait": q.device.type != "cuda"}
    keys = there & (new.any(1)[:, None])
    mask = None
    if captured.past == 0 and max(a for a, _ in lengths) >= owner.min_tokens:
        ticket = context.gate(
            owner.gates(q.device), layer.index, q_gate[new], k_gate[new], select=owner.select, **options
        )
        owner._tickets[layer.index] = ticket
        mask = ticket.mask
    block = owner.config.block_size
    ticket = context.attention(q[new], k[keys], v[keys], mask=mask, block_size=block, softmax_scale=scale, **options)
    out[new] = ticket.out
    return out


def _warn_dense(reason: str) -> None:
    warnings.warn(f"seerattn: {reason}, so attention is dense here", stacklevel=2)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, attention_mask)
