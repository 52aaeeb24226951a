"""A context's asynchronous calls: what they use is held here, so that neither a dropped Ticket nor a dropped Context can
free memory that the library still reads or writes."""

from __future__ import annotations

import collections
import threading
from typing import Deque, Optional

from . import _abi
from ._handles import _State
from ._library import library
from ._ticket import Ticket, unregister

_FOREVER = 2**64 - 1


class Queue:
    def __init__(self, pointer: int) -> None:
        self.state = _State(pointer, self._release)
        self._lock = threading.RLock()
        self._pending: Deque[Ticket] = collections.deque()
        self.log: Optional[int] = None  # the registered log function

    def add(self, ticket: Ticket) -> None:
        with self._lock:
            self._pending.append(ticket)

    def prune(self) -> None:
        """Lets go of what finished calls held."""
        with self._lock:
            while self._pending and self._pending[0]._poll(0):
                self._pending.popleft()

    def _release(self, pointer: int) -> None:
        lib = library()
        if lib.seer_wait(pointer, _abi.SEER_TICKET_ALL, _FOREVER) == _abi.SEER_ERROR_BUSY:
            # The garbage collector came by inside a callback, where nothing may wait.
            threading.Thread(target=self._release, args=(pointer,)).start()
            return
        with self._lock:
            while self._pending:
                self._pending.popleft()._ask(pointer, _FOREVER)
        lib.seer_context_release(pointer)
        unregister(self.log)
