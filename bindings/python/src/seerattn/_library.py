"""Finds and opens libseerattn, once, when it is first needed."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path
from typing import Any, List, Optional

from . import _abi
from ._errors import make_error

_SONAME = {"darwin": "libseerattn.0.dylib", "win32": "seerattn-0.dll"}.get(sys.platform, "libseerattn.so.0")
_BUNDLED = Path(__file__).parent / "lib"

_lock = threading.Lock()
_library: Optional["Library"] = None


class Library:
    """The loaded library; `path` is where it came from. Functions are attributes under their C names."""

    def __init__(self, path: str) -> None:
        # RTLD_LOCAL: another copy of the library in this process cannot bind to ours, nor ours to it.
        self.path = path
        self.cdll = ctypes.CDLL(path, mode=ctypes.RTLD_LOCAL)
        for name, (result, arguments) in _abi.PROTOTYPES.items():
            try:
                function = getattr(self.cdll, name)
            except AttributeError:
                raise ImportError(f"{path} has no function {name}: it is another library, or an older one") from None
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        found = self.cdll.seer_version()
        # While the API is experimental (0.x) a minor version may change structs; from 1.0 on only a major one does.
        ours, theirs = _abi.SEER_VERSION, found
        shift = 8 if ours >> 16 == 0 else 16
        if ours >> shift != theirs >> shift:
            raise ImportError(
                f"{path} is version {theirs >> 16}.{theirs >> 8 & 255}.{theirs & 255}; this package is for "
                f"{ours >> 16}.{ours >> 8 & 255}"
            )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self.path} has no function {name}")

    def check(self, status: int) -> int:
        """Raises what a negative status means, with this thread's error text."""
        if status < 0:
            name = self.cdll.seer_status_name(status).decode("utf-8", "replace")
            raise make_error(status, name, self.cdll.seer_last_error().decode("utf-8", "replace"))
        return status


def _candidates() -> List[str]:
    """SEERATTN_LIB, a file or a folder that holds it; the one inside this package; the system's."""
    named = os.environ.get("SEERATTN_LIB")
    if named:
        path = Path(named)
        return [str(path / _SONAME if path.is_dir() else path)]
    bundled = _BUNDLED / _SONAME
    return [str(bundled)] if bundled.exists() else [_SONAME]


def _preload_bundled() -> None:
    """The libraries bundled beside ours, found by their names from then on. Each may need another: go round until all
    are in, or until one round loads nothing."""
    waiting = sorted(path for path in _BUNDLED.glob("*.so*") if path.name != _SONAME)
    while waiting:
        failed = []
        for path in waiting:
            try:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
            except OSError:
                failed.append(path)
        if len(failed) == len(waiting):
            return  # opening our own library will say what is missing
        waiting = failed


def library() -> Library:
    global _library
    if _library is None:
        with _lock:
            if _library is None:
                errors = []
                for path in _candidates():
                    if Path(path).parent == _BUNDLED:
                        _preload_bundled()
                    try:
                        _library = Library(path)
                        break
                    except OSError as error:
                        errors.append(str(error))
                else:
                    raise ImportError(
                        f"libseerattn was not found ({'; '.join(errors)}). Install it, or set SEERATTN_LIB to {_SONAME} "
                        "or to the folder that it is in"
                    )
    return _library


def version() -> str:
    """Version of the library that runs, e.g. "0.1.0"."""
    number = library().seer_version()
    return f"{number >> 16}.{number >> 8 & 255}.{number & 255}"


def library_path() -> str:
    """The file that the library was loaded from."""
    return library().path
