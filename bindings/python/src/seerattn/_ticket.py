"""Ticket: a call's outputs and outcome. Cancel: stops calls. Callbacks from the library into Python."""

from __future__ import annotations

import ctypes
import itertools
import sys
import threading
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, Any, Callable, Dict, Generator, List, Optional

from . import _abi
from ._errors import HandleError, SeerError, make_error
from ._handles import Handle, Use
from ._library import library
from ._options import Stats

if TYPE_CHECKING:
    from ._queue import Queue

SLICE_NS = 50_000_000
Progress = Callable[[int, int], Optional[bool]]

# The library calls static functions with a number, under which the Python function is registered: a thunk that ctypes
# would free can so never be called.
_numbers = itertools.count(1)
_registry: Dict[int, Any] = {}


def register(value: Any) -> int:
    number = next(_numbers)
    _registry[number] = value
    return number


def unregister(number: Optional[int]) -> None:
    if number is not None:
        _registry.pop(number, None)


def _unraisable(function: Any) -> None:
    kind, value, traceback = sys.exc_info()
    hook = getattr(sys, "unraisablehook", None)
    if hook is not None:
        class Arguments:  # the hook reads attributes; sys.UnraisableHookArgs cannot be made from Python
            exc_type, exc_value, exc_traceback = kind, value, traceback
            err_msg, object = "Exception ignored in a callback of seerattn", function

        hook(Arguments)


def _on_progress(user: Optional[int], done: int, total: int) -> int:
    entry = _registry.get(user or 0)
    if entry is None:
        return 0
    try:
        return 1 if entry.function(done, total) else 0
    except BaseException as error:  # raised again where the call is waited for
        entry.error = error
        return 1


def _on_done(user: Optional[int], ticket: int, status: int) -> None:
    function = _registry.pop(user or 0, None)
    if function is not None:
        try:
            function()
        except BaseException:
            _unraisable(function)


def _on_log(user: Optional[int], level: int, message: Optional[int], length: int) -> None:
    function = _registry.get(user or 0)
    if function is not None:
        try:
            function(level, ctypes.string_at(message or 0, length).decode("utf-8", "replace"))
        except BaseException:
            _unraisable(function)


call_progress = _abi.seer_progress_fn(_on_progress)
call_log = _abi.seer_log_fn(_on_log)
_call_done = _abi.seer_done_fn(_on_done)


class ProgressEntry:
    """A progress function and what it raised, which cancels the call."""

    def __init__(self, function: Progress) -> None:
        self.function = function
        self.error: Optional[BaseException] = None


class Cancel(Handle):
    """Stops calls that it is given to. Once triggered it stays so. trigger() may be called from any thread or callback."""

    def __init__(self) -> None:
        lib, pointer = library(), c_void_p()
        lib.check(lib.seer_cancel_create(byref(pointer)))
        self._adopt(pointer, lib.seer_cancel_release)

    def trigger(self) -> None:
        with Use(self, Cancel) as pointer:
            library().seer_cancel_trigger(pointer)


class Ticket:
    """What a call gives: its outputs, and how it went.

    Of a call with wait=False the outputs are not there yet: wait() (or `await ticket`) first. All memory that the call
    uses is kept alive until it is done, whether or not the ticket is."""

    out: Any
    """Attention's output, like q: the object given as out=, or a new torch tensor, NumPy array or seerattn.Tensor."""
    lse: Any
    scores: Any
    mask: Any

    def __init__(self, queue: "Queue", number: int, outputs: Dict[str, Any], keep: List[Any], uses: List[Use]) -> None:
        self.out, self.lse = outputs.get("out"), outputs.get("lse")
        self.scores, self.mask = outputs.get("scores"), outputs.get("mask")
        self.number = number
        self._queue, self._keep, self._uses = queue, keep, uses
        self._progress: Optional[int] = None
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._error: Optional[BaseException] = None
        self._stats: Optional[Stats] = None

    def _poll(self, timeout_ns: int) -> bool:
        """Whether it is done."""
        if self._finished.is_set():
            return True
        try:
            pointer = self._queue.state.acquire("Context")
        except HandleError:  # whoever closes the context finishes its tickets
            return self._finished.wait(timeout_ns / 1e9)
        try:
            return self._ask(pointer, timeout_ns)
        finally:
            self._queue.state.drop()

    def _ask(self, pointer: int, timeout_ns: int) -> bool:
        """Notes the outcome of what is done, and lets go of what it held."""
        lib = library()
        status = lib.seer_wait(pointer, self.number, timeout_ns)
        if status in (_abi.SEER_NOT_READY, _abi.SEER_TIMEOUT):
            return False
        error: Optional[BaseException] = None
        if status < 0:
            name = lib.seer_status_name(status).decode()
            error = make_error(status, name, lib.seer_last_error().decode("utf-8", "replace"))
            if status == _abi.SEER_ERROR_BUSY:  # says nothing about the call: we are inside a callback
                raise error
        stats = _abi.init(_abi.seer_stats)
        known = lib.seer_ticket_stats(pointer, self.number, byref(stats)) == _abi.SEER_OK
        with self._lock:
            if self._finished.is_set():
                return True
            if self._progress is not None:
                raised = _registry[self._progress].error
                unregister(self._progress)
                error = raised if raised is not None and error is not None else error
            self._error = error
            self._stats = Stats._of(stats) if known else None
            uses, self._uses, self._keep = self._uses, [], []
            self._finished.set()
        for use in uses:
            use.drop()
        return True

    def done(self) -> bool:
        """Without waiting."""
        return self._poll(0)

    def wait(self, timeout: Optional[float] = None) -> "Ticket":
        """Until the call is done; raises its error. TimeoutError after `timeout` seconds, and the call goes on."""
        if timeout is not None:
            if not self._poll(max(0, int(timeout * 1e9))):
                raise TimeoutError(f"the call is not done after {timeout} s")
        else:
            while not self._poll(SLICE_NS):  # in slices: Python handles signals between them
                pass
        if self._error is not None:
            raise self._error
        return self

    @property
    def stats(self) -> Stats:
        """Waits for the call; raises its error."""
        self.wait()
        if self._stats is None:
            raise SeerError("the call's statistics are no longer kept")
        return self._stats

    def add_done_callback(self, function: Callable[["Ticket"], object]) -> None:
        """function(ticket) runs once, on a thread of the library, when the call is done. There it may look at nothing but
        Python's own things (hand the ticket to a queue, set an event): calls into seerattn raise BusyError."""
        number = register(lambda: function(self))
        try:
            pointer = self._queue.state.acquire("Context")
            try:
                library().check(library().seer_on_done(pointer, self.number, _call_done, number))
            finally:
                self._queue.state.drop()
        except BaseException:
            unregister(number)
            raise

    def __await__(self) -> Generator[Any, None, "Ticket"]:
        import asyncio

        loop = asyncio.get_running_loop()
        future: "asyncio.Future[None]" = loop.create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        def call(_: "Ticket") -> None:
            try:
                loop.call_soon_threadsafe(wake)
            except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
                pass

        self.add_done_callback(call)
        yield from future
        return self.wait()

    def __repr__(self) -> str:
        state = "in flight" if not self._finished.is_set() else "failed" if self._error is not None else "done"
        return f"<seerattn.Ticket {self.number}, {state}>"
