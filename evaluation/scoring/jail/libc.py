"""System calls that Python has no name for; where one fails, an OSError says which."""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> int:
    """A function of the C library by name; whole numbers go as C longs, text as C strings. Raises OSError."""
    try:
        function: Callable[..., int] = getattr(_library(), name)
    except AttributeError:
        raise OSError(f"this system has no {name}") from None
    result = function(*map(_as_c, arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _as_c(value: Any) -> Any:
    if isinstance(value, int):
        return ctypes.c_long(value)
    return value.encode() if isinstance(value, str) else value


def prctl(option: int, value: int = 0, *more: Any) -> None:
    call("prctl", option, value, *(more or (0, 0, 0)))


def die_with_parent(signal_number: int) -> None:
    """Get this signal when the parent ends, however it ends."""
    prctl(_PR_SET_PDEATHSIG, signal_number)


def adopt_orphans() -> None:
    """Children whose parent ended become children of this process, so that they can be found."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
    """No process without privileges may trace this one, or read its memory and descriptors; children inherit it."""
    prctl(_PR_SET_DUMPABLE, 0)
