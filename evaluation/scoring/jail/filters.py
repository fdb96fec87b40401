"""A filter of system calls (seccomp) for what namespaces and limits leave open.

Always refused: sockets other than the internet's (a socket in the file system leads to a process outside, such as a
container service), tracing, other processes' memory and limits, mounts, keys, and memory that no limit counts. Without
namespaces also: every socket, starting processes, and signals to anyone else. Children inherit the filter.

A program of the filter is a list of (code, jump if true, jump if false, value); it reads the call's number, the
machine's kind and the call's arguments, and returns what is to happen.
"""

import ctypes
import errno
import os
import platform
import socket
from typing import NamedTuple

from evaluation.scoring.jail import libc

Instruction = tuple[int, int, int, int]
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16  # places in what the filter reads
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_CLONE_THREAD = 0x10000


class Machine(NamedTuple):
    """A kind of processor and its numbers of system calls."""

    kind: int
    number: dict[str, int]
    foreign_from: int | None  # numbers from here on belong to another calling convention


_EVERYWHERE = {
    "io_uring_setup": 425, "pidfd_send_signal": 424, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "clone3": 435, "pidfd_getfd": 438, "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        {
            "shmget": 29, "socket": 41, "clone": 56, "fork": 57, "vfork": 58, "kill": 62, "msgget": 68, "ptrace": 101,
            "setsid": 112, "rt_sigqueueinfo": 129, "mount": 165, "umount2": 166, "tkill": 200, "tgkill": 234,
            "mq_open": 240, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
            "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "prlimit64": 302, "setns": 308,
            "process_vm_readv": 310, "process_vm_writev": 311, "memfd_create": 319, "bpf": 321, "userfaultfd": 323,
            **_EVERYWHERE,
        },
        0x40000000,
    ),
    "aarch64": Machine(
        0xC00000B7,
        {
            "umount2": 39, "mount": 40, "unshare": 97, "ptrace": 117, "kill": 129, "tkill": 130, "tgkill": 131,
            "rt_sigqueueinfo": 138, "setsid": 157, "mq_open": 180, "msgget": 186, "shmget": 194, "socket": 198,
            "add_key": 217, "request_key": 218, "keyctl": 219, "clone": 220, "rt_tgsigqueueinfo": 240,
            "perf_event_open": 241, "prlimit64": 261, "setns": 268, "process_vm_readv": 270,
            "process_vm_writev": 271, "memfd_create": 279, "bpf": 280, "userfaultfd": 282,
            **_EVERYWHERE,
        },
        None,
    ),
}  # fmt: skip

REFUSED = (
    "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "mount", "umount2", "mount_setattr", "open_tree",
    "move_mount", "fsopen", "unshare", "setns", "add_key", "request_key", "keyctl", "bpf", "userfaultfd",
    "perf_event_open", "io_uring_setup", "memfd_create", "memfd_secret", "shmget", "msgget", "mq_open",
)  # fmt: skip
REFUSED_OUTSIDE = ("socket", "fork", "vfork", "setsid", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
                   "pidfd_send_signal")  # fmt: skip


def supported() -> bool:
    """Whether this kind of processor is known; there is no filter on others."""
    return platform.machine() in MACHINES


def install(isolated: bool) -> None:
    """Filter the calls of this process and of all it starts, for good. `isolated`: it is in namespaces of its own."""
    if not supported():
        return
    program = _program(MACHINES[platform.machine()], isolated)
    packed = (_CInstruction * len(program))(*(_CInstruction(*instruction) for instruction in program))
    pointer = ctypes.byref(_CProgram(len(program), packed))
    libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, pointer, 0, 0)


class _CInstruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("true", ctypes.c_uint8), ("false", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _CProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_CInstruction))]


def _program(machine: Machine, isolated: bool) -> list[Instruction]:
    number = machine.number
    program = [(_LOAD, 0, 0, _MACHINE), (_EQUAL, 1, 0, machine.kind), _returned(_KILL), (_LOAD, 0, 0, _NUMBER)]
    if machine.foreign_from is not None:
        program += [(_AT_LEAST, 0, 1, machine.foreign_from), _refused(errno.ENOSYS)]
    for name in REFUSED if isolated else (*REFUSED, *REFUSED_OUTSIDE):
        if name in number:
            program += [(_EQUAL, 0, 1, number[name]), _refused(errno.EPERM)]
    program += _if_called(number["prlimit64"], _only(0, os.getpid()))
    if isolated:
        program += _if_called(number["socket"], _only(socket.AF_INET, socket.AF_INET6))
    else:
        program += _outside(number)
    return [*program, _returned(_ALLOW)]


def _outside(number: dict[str, int]) -> list[Instruction]:
    """Threads but no processes, and signals to this process alone."""
    threads = [(_ANY_BIT, 1, 0, _CLONE_THREAD), _refused(errno.EPERM), _returned(_ALLOW)]
    own = _only(os.getpid())
    return [
        (_EQUAL, 0, 1, number["clone3"]),
        _refused(errno.ENOSYS),  # its flags lie in memory; the library then calls clone
        *_if_called(number["clone"], threads),
        *_if_called(number["kill"], own),
        *_if_called(number["tgkill"], own),
    ]


def _if_called(number: int, then: list[Instruction]) -> list[Instruction]:
    """`then`, which returns, with the first argument loaded, where the call is this one."""
    return [(_EQUAL, 0, len(then) + 1, number), (_LOAD, 0, 0, _FIRST_ARGUMENT), *then]


def _only(*values: int) -> list[Instruction]:
    """Allow these values, refuse others."""
    checks = [(_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [*checks, _refused(errno.EACCES), _returned(_ALLOW)]


def _refused(error: int) -> Instruction:
    return _returned(_REFUSE | error)


def _returned(value: int) -> Instruction:
    return _RETURN, 0, 0, value
