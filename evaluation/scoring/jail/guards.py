"""Without namespaces: refusals inside Python (audit hooks), against accidents.

Refused: opening a file for writing, and removing, renaming or changing one, outside the program's folder; starting
programs; foreign functions. A hook cannot be taken off, but whoever leaves Python's own ways is not held by it.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGING = {
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "os.chflags", "os.lockf", "os.utime", "os.setxattr", "os.removexattr",
}  # fmt: skip
_FOREIGN = ("ctypes", "_ctypes", "_posixsubprocess", "cffi", "_cffi_backend")
_REFUSED = (
    "socket.", "ctypes.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill",
    "signal.pthread_kill", "pty.", "syslog.", "sys.addaudithook", "gc.get_",
)  # fmt: skip


def guard(folder: Path) -> None:
    """Refuse from now on, for the rest of this process."""
    for name in [name for name in sys.modules if name.partition(".")[0] in _FOREIGN]:
        del sys.modules[name]
    sys.addaudithook(_hook(os.path.realpath(folder)))


def _hook(folder: str) -> Callable[[str, tuple[Any, ...]], None]:
    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_REFUSED):
            raise PermissionError(f"{event} is refused in the sandbox")
        if event == "import" and arguments[0].partition(".")[0] in _FOREIGN:
            raise PermissionError(f"{arguments[0]} is refused in the sandbox")
        if (event in _CHANGING or (event == "open" and _may_change(*arguments))) and not _inside(arguments, folder):
            raise PermissionError(f"{event} of {arguments[0]!r} is refused: it lies outside of the sandbox")

    return refuse


def _may_change(path: Any, mode: str | None, flags: int) -> bool:
    """Whether what is opened can be written, or is a folder: a path from there would say nothing about its place."""
    if isinstance(path, int):
        return False
    return bool(flags & _WRITING) or (mode is None and os.path.isdir(path))


def _inside(arguments: tuple[Any, ...], folder: str) -> bool:
    """Whether all paths among the arguments, of which there is one, lie in the folder."""
    paths = [os.path.realpath(os.fsdecode(path)) for path in arguments if isinstance(path, str | bytes)]
    return bool(paths) and all(path == os.devnull or path.startswith(folder + os.sep) for path in paths)
