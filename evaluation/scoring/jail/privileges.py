"""What a process gives up before it reads a line of foreign code."""

import ctypes
import os
import resource
import signal
import stat
import sys
from contextlib import suppress
from pathlib import Path

from evaluation.scoring.jail import filters, libc
from evaluation.scoring.jail.limits import NOBODY, Limits

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAPABILITIES_VERSION_3, _MOST_CAPABILITIES, _OPEN_FILES = 0x20080522, 64, 64


def give_up(limits: Limits, user: int, isolated: bool) -> None:
    """No other user, no capability, none to be had by starting a program; limits; a filter of system calls.

    `user`: whom to become. Raises OSError where the system refuses one of them.
    """
    with suppress(OSError):  # without the right to drop them there are none to drop
        for number in range(_MOST_CAPABILITIES):
            libc.prctl(_PR_CAPBSET_DROP, number)
    if user != os.getuid():
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    _drop_capabilities()
    libc.die_with_parent(signal.SIGKILL)  # forgotten when the user changes
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    libc.hide_memory()
    _set_limits(limits, isolated)
    filters.install(isolated)


def harmless_user() -> int:
    """Whom programs are to become without namespaces: nobody where this is root and nobody can read Python's files."""
    if os.getuid() != 0 or not all(_open_to_all(Path(path)) for path in (os.__file__, sys.prefix)):
        return os.getuid()
    return NOBODY


def _open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents) and bool(
        path.stat().st_mode & stat.S_IROTH
    )


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION_3, 0)
    libc.call("capset", header, (ctypes.c_uint32 * 6)())


def _set_limits(limits: Limits, isolated: bool) -> None:
    amounts = {
        resource.RLIMIT_CPU: limits.cpu_s,
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    if isolated:  # outside of a namespace the user's other processes count too
        amounts[resource.RLIMIT_NPROC] = limits.processes
    for kind, amount in amounts.items():
        resource.setrlimit(kind, (amount, amount))
