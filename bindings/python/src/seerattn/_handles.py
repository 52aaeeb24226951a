"""What Context, Model, Buffer, GateCache and Cancel share: a C handle that may be closed at any time, from any thread."""

from __future__ import annotations

import threading
import weakref
from ctypes import c_void_p
from typing import Any, Callable, Optional, Type, TypeVar

from ._errors import HandleError

_Self = TypeVar("_Self", bound="Handle")


class _State:
    """The pointer and how many calls are using it. close() while there are some leaves the release to the last one, so
    that no call ever holds a freed handle."""

    def __init__(self, pointer: int, release: Callable[[int], None]) -> None:
        self.pointer, self.release = pointer, release
        self.lock = threading.RLock()  # a signal handler may trigger the Cancel that its thread is about to use
        self.users = 0
        self.closed = False

    def acquire(self, what: str) -> int:
        with self.lock:
            if self.closed:
                raise HandleError(f"the {what} is closed")
            self.users += 1
            return self.pointer

    def drop(self) -> None:
        with self.lock:
            self.users -= 1
            last = self.closed and self.users == 0
        if last:
            self.release(self.pointer)

    def close(self) -> None:
        with self.lock:
            if self.closed:
                return
            self.closed = True
            unused = self.users == 0
        if unused:
            self.release(self.pointer)


class Handle:
    """close() or the end of a `with` block releases it, else the garbage collector does, else the interpreter's exit."""

    def _adopt(self, pointer: c_void_p, release: Callable[[int], None]) -> None:
        assert pointer.value is not None
        self._own(_State(pointer.value, release))

    def _own(self, state: _State) -> None:
        self._state = state
        self._finalizer = weakref.finalize(self, self._state.close)

    def close(self) -> None:
        """Calls in flight are not disturbed; later ones raise HandleError. Closing twice is fine."""
        self._finalizer()

    @property
    def closed(self) -> bool:
        return self._state.closed

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __copy__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} cannot be copied")

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} cannot be pickled")


class Use:
    """Holds a handle for the length of a call, or until an asynchronous call is done."""

    def __init__(self, handle: Optional[Handle], what: Type[Handle], argument: str = "") -> None:
        self._state: Optional[_State] = None
        self.pointer: Optional[int] = None
        if handle is not None:
            if not isinstance(handle, what):
                name = argument or what.__name__.lower()
                raise TypeError(f"{name} is a {type(handle).__name__}, expected a seerattn.{what.__name__}")
            self.pointer = handle._state.acquire(what.__name__)
            self._state = handle._state

    def drop(self) -> None:
        state, self._state = self._state, None
        if state is not None:
            state.drop()

    def __enter__(self) -> Optional[int]:
        return self.pointer

    def __exit__(self, *_: object) -> None:
        self.drop()
