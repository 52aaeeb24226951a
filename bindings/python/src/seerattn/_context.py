"""Context: a device and its queue, and the four calls."""

from __future__ import annotations

import logging
import threading
from ctypes import byref, c_int32, c_uint64, c_void_p
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

from . import _abi
from ._errors import InvalidArgumentError, ShapeError
from ._handles import Handle, Use
from ._library import library
from ._model import Buffer, GateCache, Model
from ._options import Backend, DeviceInfo, LogLevel, Rope, Select
from ._queue import Queue
from ._tensor import DType, Tensor, view
from ._ticket import SLICE_NS, Cancel, Progress, ProgressEntry, Ticket, call_log, call_progress, register, unregister

_LOGGING = {
    LogLevel.ERROR: logging.ERROR,
    LogLevel.WARN: logging.WARNING,
    LogLevel.INFO: logging.INFO,
    LogLevel.DEBUG: logging.DEBUG,
}
Log = Union[Callable[[int, str], object], logging.Logger]


def devices(backend: Union[Backend, str, None] = None) -> List[DeviceInfo]:
    """The devices there are, of all backends or of one."""
    kinds = [Backend.CUDA, Backend.VULKAN, Backend.CPU] if backend is None else [Backend.parse(backend)]
    lib, found = library(), []
    for kind in kinds:
        count = c_int32()
        lib.check(lib.seer_device_count(kind, byref(count)))
        for ordinal in range(count.value):
            info = _abi.init(_abi.seer_device_info)
            lib.check(lib.seer_device_get(kind, ordinal, byref(info)))
            found.append(DeviceInfo._of(info))
    return found


class _Call:
    """The arguments of one call on their way into its struct, and what must stay alive until it is done."""

    def __init__(self, desc: Any, stream: Optional[int]) -> None:
        self.desc, self.stream = desc, stream
        self.on_cuda: Optional[Tensor] = None
        self.keep: List[Any] = []
        self.uses: List[Use] = []
        self.outputs: Dict[str, Any] = {}
        self.q_offsets: Optional[List[int]] = None
        self.k_offsets: Optional[List[int]] = None

    def use(self, handle: Optional[Handle], what: Any) -> Optional[int]:
        held = Use(handle, what)
        self.uses.append(held)
        return held.pointer

    def tensor(self, name: str, obj: Any, **options: bool) -> Tensor:
        tensor = view(obj, name, stream=self.stream, **options)
        if isinstance(tensor._owner, Buffer):
            self.use(tensor._owner, Buffer)
        if tensor._mem == _abi.SEER_MEM_CUDA and self.on_cuda is None:
            self.on_cuda = tensor
        tensor._fill(getattr(self.desc, name))
        self.keep.append(tensor)
        return tensor

    def output(self, name: str, wanted: Any, like: Tensor, shape: Callable[[], Tuple[int, ...]], dtype: DType) -> None:
        """wanted: True for a new one of q's kind, an object to write to, or None or False for none."""
        if wanted is None or wanted is False:
            return
        if wanted is True:
            wanted = like._make(shape(), dtype) if like._make else Tensor.empty(shape(), dtype)
        self.tensor(name, wanted, out=True, mask=name == "mask")
        self.outputs[name] = wanted

    def sequences(self, q: Optional[Sequence[int]], k: Optional[Sequence[int]]) -> None:
        if q is None:
            if k is not None:
                raise InvalidArgumentError("sequences_k without sequences")
            return
        target = self.desc.sequences
        self.q_offsets = _offsets("sequences", q)
        self.k_offsets = self.q_offsets if k is None else _offsets("sequences_k", k)
        if len(self.q_offsets) != len(self.k_offsets):
            raise ShapeError(f"sequences has {len(self.q_offsets)} offsets and sequences_k {len(self.k_offsets)}")
        target.count = len(self.q_offsets) - 1
        target.q = (c_int32 * len(self.q_offsets))(*self.q_offsets)
        if k is not None:
            target.k = (c_int32 * len(self.k_offsets))(*self.k_offsets)

    def rows(self, q: Tensor, k: Tensor, block: int) -> Tuple[Tuple[int, ...], int]:
        """The leading extents of scores and mask, and nK."""
        if self.q_offsets is not None and self.k_offsets is not None:
            lengths = [b - a for a, b in zip(self.q_offsets, self.q_offsets[1:])]
            keys = [b - a for a, b in zip(self.k_offsets, self.k_offsets[1:])]
            return (q.shape[-2], sum(-(-n // block) for n in lengths)), -(-max(keys, default=0) // block)
        _require_4d("q", q)
        _require_4d("k", k)
        return (q.shape[0], q.shape[2], -(-q.shape[1] // block)), -(-k.shape[1] // block)

    def lse_shape(self, q: Tensor) -> Tuple[int, ...]:
        if self.q_offsets is not None:
            return (q.shape[-2], q.shape[0])
        _require_4d("q", q)
        return (q.shape[0], q.shape[2], q.shape[1])


def _offsets(name: str, values: Sequence[int]) -> List[int]:
    offsets = [int(value) for value in values]
    if len(offsets) < 2 or not all(0 <= value < 2**31 for value in offsets):
        raise InvalidArgumentError(f"{name} must be offsets 0, ..., T of at least one sequence, each below 2^31")
    return offsets


def _require_4d(name: str, tensor: Tensor) -> None:
    if len(tensor.shape) != 4:
        raise ShapeError(f"{name} has {len(tensor.shape)} dimensions; expected [batch, tokens, heads, dim] (packed: 3 and sequences)")


class Context(Handle):
    """One device and one in-order queue. Thread-safe: calls from several threads run in order of arrival.

    backend: "auto" (the first that works), "cuda", "vulkan" or "cpu". threads: of the CPU backend, 0 = one per core.
    reference: the CPU's plain kernels, slow, for checking. log: a logging.Logger, or a function of level and text that may
    run on any thread. workspace_limit: bytes a call may take beyond its tensors, 0 = no limit."""

    def __init__(
        self,
        backend: Union[Backend, str] = Backend.AUTO,
        *,
        device: int = 0,
        threads: int = 0,
        reference: bool = False,
        log: Optional[Log] = None,
        log_level: LogLevel = LogLevel.WARN,
        workspace_limit: int = 0,
    ) -> None:
        lib, pointer = library(), c_void_p()
        params = _abi.init(_abi.seer_context_params)
        params.backend, params.device, params.threads = Backend.parse(backend), device, threads
        params.flags = _abi.SEER_CONTEXT_REFERENCE if reference else 0
        params.log_level, params.workspace_limit = LogLevel(log_level), workspace_limit
        number = None
        if log is not None:
            number = register(_log_function(log))
            params.log, params.log_user = call_log, number
        try:
            lib.check(lib.seer_context_create(byref(params), byref(pointer)))
        except BaseException:
            unregister(number)
            raise
        assert pointer.value is not None
        self._queue = Queue(pointer.value)
        self._queue.log = number
        self._own(self._queue.state)
        info = _abi.init(_abi.seer_device_info)
        lib.check(lib.seer_context_info(pointer, byref(info)))
        self._info = DeviceInfo._of(info)

    @property
    def info(self) -> DeviceInfo:
        """The device."""
        return self._info

    def load(self, folder: Any, **options: Any) -> Model:
        """Model.load(self, folder, ...)"""
        return Model.load(self, folder, **options)

    # ---- Calls. Shapes and layouts are those of the header: q [B, S, Hq, D], k and v [B, L, Hkv, D], packed [T, H, D] with
    # sequences. Tensors are torch tensors, NumPy arrays, seerattn.Tensors, or anything with DLPack or the buffer protocol;
    # strided views are used as they are, and what the library cannot read raises StrideError rather than being copied.

    def prefill(
        self,
        model: Model,
        layer: int,
        q: Any,
        k: Any,
        v: Any,
        *,
        out: Any = None,
        lse: Any = None,
        scores: Any = None,
        mask: Any = None,
        select: Optional[Select] = None,
        sequences: Optional[Sequence[int]] = None,
        sequences_k: Optional[Sequence[int]] = None,
        rope: Optional[Rope] = None,
        softmax_scale: float = 0.0,
        cache: Optional[GateCache] = None,
        total_len: int = 0,
        cancel: Optional[Cancel] = None,
        progress: Optional[Progress] = None,
        stream: Optional[int] = None,
        wait: bool = True,
    ) -> Ticket:
        """Gate and block-sparse attention of one layer; q and k after any q/k norm and before RoPE.

        out, lse, scores and mask are objects to write to; lse, scores and mask may be True for new ones (out is new unless
        given). select: how blocks are chosen, default as the model says. sequences: offsets 0, ..., T of a packed batch.
        cache and total_len: for prompts that come in chunks. progress(done, total) may return True to cancel. stream: a
        CUDA stream's handle; torch's current one where q is a CUDA tensor of torch. wait=False: returns at once."""
        call = _Call(_abi.init(_abi.seer_prefill_desc), stream)
        desc = call.desc
        try:
            tensors = {name: call.tensor(name, obj) for name, obj in (("q", q), ("k", k), ("v", v))}
            call.sequences(sequences, sequences_k)
            self._attention_outputs(call, tensors["q"], out, lse)
            self._gate_outputs(call, tensors["q"], tensors["k"], model, scores, mask)
            (select or Select())._fill(desc.select)
            (rope or Rope())._fill(desc.rope)
            desc.softmax_scale, desc.total_len = softmax_scale, total_len
            return self._submit("seer_prefill", call, cancel, progress, wait, model, layer, cache)
        except BaseException:
            _drop(call)
            raise

    def gate(
        self,
        model: Model,
        layer: int,
        q: Any,
        k: Any,
        *,
        scores: Any = None,
        mask: Any = None,
        logits: bool = False,
        select: Optional[Select] = None,
        sequences: Optional[Sequence[int]] = None,
        sequences_k: Optional[Sequence[int]] = None,
        rope: Optional[Rope] = None,
        cache: Optional[GateCache] = None,
        total_len: int = 0,
        cancel: Optional[Cancel] = None,
        progress: Optional[Progress] = None,
        stream: Optional[int] = None,
        wait: bool = True,
    ) -> Ticket:
        """The gate alone: scores (logits=True: before the softmax, whatever the method) and, or only, the mask. Each may be
        True or an object to write to; with neither, the mask."""
        call = _Call(_abi.init(_abi.seer_gate_desc), stream)
        desc = call.desc
        try:
            tensors = {name: call.tensor(name, obj) for name, obj in (("q", q), ("k", k))}
            call.sequences(sequences, sequences_k)
            nothing = (scores is None or scores is False) and (mask is None or mask is False)
            self._gate_outputs(call, tensors["q"], tensors["k"], model, scores, True if nothing else mask)
            (select or Select())._fill(desc.select)
            (rope or Rope())._fill(desc.rope)
            desc.flags, desc.total_len = _abi.SEER_GATE_LOGITS if logits else 0, total_len
            return self._submit("seer_gate", call, cancel, progress, wait, model, layer, cache)
        except BaseException:
            _drop(call)
            raise

    def select(
        self,
        scores: Any,
        select: Select,
        *,
        mask: Any = True,
        q_len: int = 0,
        k_len: int = 0,
        block_size: int = 64,
        sequences: Optional[Sequence[int]] = None,
        sequences_k: Optional[Sequence[int]] = None,
        total_len: int = 0,
        cancel: Optional[Cancel] = None,
        progress: Optional[Progress] = None,
        stream: Optional[int] = None,
        wait: bool = True,
    ) -> Ticket:
        """Scores [B, Hq, nQ, nK] (packed [Hq, R, nK], with sequences) to a mask. q_len and k_len: tokens, 0 = whole blocks."""
        call = _Call(_abi.init(_abi.seer_select_desc), stream)
        desc = call.desc
        try:
            tensor = call.tensor("scores", scores)
            call.sequences(sequences, sequences_k)
            call.output("mask", mask, tensor, lambda: (*tensor.shape[:-1], -(-tensor.shape[-1] // 32)), DType.B32)
            desc.q_len, desc.k_len, desc.block_size, desc.total_len = q_len, k_len, block_size, total_len
            select._fill(desc.select)
            return self._submit("seer_select", call, cancel, progress, wait)
        except BaseException:
            _drop(call)
            raise

    def attention(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        mask: Any = None,
        out: Any = None,
        lse: Any = None,
        sequences: Optional[Sequence[int]] = None,
        sequences_k: Optional[Sequence[int]] = None,
        rope: Optional[Rope] = None,
        softmax_scale: float = 0.0,
        block_size: int = 64,
        cancel: Optional[Cancel] = None,
        progress: Optional[Progress] = None,
        stream: Optional[int] = None,
        wait: bool = True,
    ) -> Ticket:
        """Causal attention over the blocks of a mask (B32 words or a byte a block), or dense. No RoPE unless asked for."""
        call = _Call(_abi.init(_abi.seer_attention_desc), stream)
        desc = call.desc
        try:
            tensors = {name: call.tensor(name, obj) for name, obj in (("q", q), ("k", k), ("v", v))}
            if mask is not None:
                call.tensor("mask", mask, mask=True)
            call.sequences(sequences, sequences_k)
            self._attention_outputs(call, tensors["q"], out, lse)
            (rope or Rope())._fill(desc.rope)
            desc.softmax_scale, desc.block_size = softmax_scale, block_size
            return self._submit("seer_attention", call, cancel, progress, wait)
        except BaseException:
            _drop(call)
            raise

    def prefill_workspace(
        self,
        model: Model,
        q_shape: Sequence[int],
        k_shape: Sequence[int],
        dtype: Union[DType, str],
        *,
        select: Optional[Select] = None,
        scores: bool = False,
        mask: bool = False,
    ) -> int:
        """Bytes that a prefill of these sizes takes beyond its tensors. Nothing is computed."""
        desc = _abi.init(_abi.seer_prefill_desc)
        block = model.config.block_size
        with Use(self, Context) as context, Use(model, Model) as gates:
            shapes: Dict[str, Tuple[Sequence[int], DType]] = {}
            for name, shape in (("q", q_shape), ("k", k_shape), ("v", k_shape), ("out", q_shape)):
                shapes[name] = shape, DType.parse(dtype)
            if len(q_shape) != 4 or len(k_shape) != 4:
                raise ShapeError("q_shape and k_shape are [batch, tokens, heads, dim]")
            rows = (q_shape[0], q_shape[2], -(-q_shape[1] // block))
            blocks = -(-k_shape[1] // block)
            if scores:
                shapes["scores"] = (*rows, blocks), DType.F32
            if mask:
                shapes["mask"] = (*rows, -(-blocks // 32)), DType.B32
            for name, (shape, kind) in shapes.items():
                tensor = getattr(desc, name)
                tensor.mem, tensor.dtype, tensor.ndim = _abi.SEER_MEM_HOST, kind, len(shape)
                tensor.shape[: len(shape)] = list(shape)
            (select or Select())._fill(desc.select)
            lib, size = library(), c_uint64()
            lib.check(lib.seer_prefill_workspace(context, gates, byref(desc), byref(size)))
        return size.value

    def sync(self) -> None:
        """Waits for everything submitted so far, however it went."""
        lib = library()
        with Use(self, Context) as pointer:
            while lib.check(lib.seer_wait(pointer, _abi.SEER_TICKET_ALL, SLICE_NS)) == _abi.SEER_TIMEOUT:
                pass
            self._queue.prune()

    # ---- Behind the calls

    def _attention_outputs(self, call: _Call, q: Tensor, out: Any, lse: Any) -> None:
        call.output("out", True if out is None else out, q, lambda: q.shape, q.dtype)
        call.output("lse", lse, q, lambda: call.lse_shape(q), DType.F32)

    def _gate_outputs(self, call: _Call, q: Tensor, k: Tensor, model: Model, scores: Any, mask: Any) -> None:
        def shape(per_word: int) -> Tuple[int, ...]:
            rows, blocks = call.rows(q, k, model.config.block_size)
            return (*rows, -(-blocks // per_word))

        call.output("scores", scores, q, lambda: shape(1), DType.F32)
        call.output("mask", mask, q, lambda: shape(32), DType.B32)

    def _submit(
        self,
        name: str,
        call: _Call,
        cancel: Optional[Cancel],
        progress: Optional[Progress],
        wait: bool,
        model: Optional[Model] = None,
        layer: int = 0,
        cache: Optional[GateCache] = None,
    ) -> Ticket:
        lib, submit, number = library(), _abi.init(_abi.seer_submit), c_uint64()
        if cancel is None and wait and threading.current_thread() is threading.main_thread():
            cancel = Cancel()  # for Ctrl-C
        submit.cancel = call.use(cancel, Cancel)
        entry: Optional[int] = None
        if progress is not None:
            entry = register(ProgressEntry(progress))
            submit.progress, submit.progress_user = call_progress, entry
        if call.on_cuda is not None or call.stream is not None:
            submit.flags |= _abi.SEER_SUBMIT_USE_STREAM
            submit.cuda_stream = call.stream if call.stream is not None else _current_stream(call.on_cuda)
        arguments: List[Any] = []
        if name in ("seer_prefill", "seer_gate"):
            arguments = [call.use(model, Model), layer]
        try:
            with Use(self, Context) as context:
                if cache is not None:
                    call.desc.cache = call.use(cache, GateCache)
                    with cache._lock:
                        lib.check(
                            getattr(lib, name)(context, *arguments, byref(call.desc), byref(submit), byref(number))
                        )
                else:
                    lib.check(getattr(lib, name)(context, *arguments, byref(call.desc), byref(submit), byref(number)))
                ticket = Ticket(self._queue, number.value, call.outputs, [*call.keep, self], call.uses)
                ticket._progress = entry
                if not wait:
                    self._queue.add(ticket)
        except BaseException:
            unregister(entry)
            raise
        if wait:
            _wait_out(ticket, cancel)
        self._queue.prune()
        return ticket


def _wait_out(ticket: Ticket, cancel: Optional[Cancel]) -> None:
    """Returns or raises only once the call is done: its tensors may be freed then. Ctrl-C cancels it first."""
    try:
        ticket.wait()
    except BaseException:
        while not ticket._finished.is_set():
            if cancel is not None:
                cancel.trigger()
            try:
                ticket._poll(SLICE_NS)
            except KeyboardInterrupt:
                pass
        raise


def _drop(call: _Call) -> None:
    for use in call.uses:
        use.drop()


def _current_stream(tensor: Optional[Tensor]) -> int:
    """Torch's, for its own tensors; the legacy default stream, which others synchronised with, else."""
    from ._dlpack import LEGACY_STREAM

    owner: Any = tensor._owner if tensor is not None else None
    if type(owner).__module__.split(".")[0] == "torch":
        import torch

        return int(torch.cuda.current_stream(owner.device).cuda_stream)
    return LEGACY_STREAM


def _log_function(log: Log) -> Callable[[int, str], object]:
    if isinstance(log, logging.Logger):
        logger = log
        return lambda level, text: logger.log(_LOGGING.get(LogLevel(level), logging.INFO), "%s", text)
    return log
