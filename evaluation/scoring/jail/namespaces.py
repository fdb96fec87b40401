"""A world of its own for the program: users, processes, network and mounts, by the kernel's namespaces.

The program sees the file system read-only, and in place of homes, temporary and run-time folders empty ones of its own;
what Python needs of them is put back. Nothing written there is left when the last process is gone.
"""

import os
import pwd
import sys
from collections.abc import Iterable
from contextlib import suppress
from ctypes import Structure, byref, c_uint64, sizeof
from pathlib import Path

from evaluation.scoring.jail import libc
from evaluation.scoring.jail.limits import NOBODY, Limits

# user, mounts, processes, network, host name, shared memory, control groups
_NEW = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x04000000 | 0x08000000 | 0x02000000
_BIND, _REC, _PRIVATE, _NOSUID, _NODEV, _NOEXEC = 0x1000, 0x4000, 1 << 18, 0x2, 0x4, 0x8
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_RDONLY_ATTRIBUTE, _NOSUID_ATTRIBUTE, _NODEV_ATTRIBUTE = 0x1, 0x2, 0x4

SCRATCH, SHARED = "/tmp", "/dev/shm"  # what the program may write
HIDDEN = ("/var/tmp", "/run", "/home", "/root", "/mnt", "/media")
DEVICES = ("null", "zero", "full", "random", "urandom")
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/etc", "/opt", "/nix", "/gnu")  # where a home is not hidden


def enter() -> int:
    """Move this process into namespaces of its own; its next child is the first process there.

    Returns the user that programs are to become: nobody where root may lend it, else the user itself. Raises OSError
    where the system refuses.
    """
    entered, enter_end = os.pipe()
    mapped, map_end = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(enter_end)
        os.read(entered, 1)
        os._exit(_map_users(os.getppid(), map_end))
    libc.call("unshare", _NEW)
    os.write(enter_end, b"x")
    _, status = os.waitpid(helper, 0)
    if status != 0:
        raise OSError("the system refuses to map users into a namespace")
    others = os.read(mapped, 1) == b"2"
    for end in (entered, enter_end, mapped, map_end):
        os.close(end)
    return NOBODY if others else os.getuid()


def _map_users(process: int, report: int) -> int:
    """Write which users and groups `process` has in its namespace; reports how many. 0 where it worked."""
    own = os.getuid(), os.getgid()
    for users in ([own, (NOBODY, NOBODY)], [own]) if own[0] == 0 else ([own],):
        with suppress(OSError):
            if len(users) == 1:
                Path(f"/proc/{process}/setgroups").write_text("deny")
            Path(f"/proc/{process}/gid_map").write_text(_one_to_one(group for _, group in users))
            Path(f"/proc/{process}/uid_map").write_text(_one_to_one(user for user, _ in users))
            os.write(report, str(len(users)).encode())
            return 0
    return 1


def _one_to_one(numbers: Iterable[int]) -> str:
    return "".join(f"{number} {number} 1\n" for number in numbers)


def furnish(limits: Limits) -> None:
    """Mount what the first process of the namespaces and those below it see. Raises OSError where that is refused."""
    libc.call("mount", "none", "/", None, _REC | _PRIVATE, None)
    libc.call("mount", "proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC, None)
    with suppress(OSError):  # not in every kernel; what a nested namespace could do, it could not do to us
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
    kept = {path: os.open(path, os.O_PATH) for path in _needed()}
    devices = {name: os.open(f"/dev/{name}", os.O_PATH) for name in DEVICES}
    for folder in _hidden():
        _mount_empty(folder, limits.scratch_bytes)
    for path, descriptor in kept.items():
        _put_back(path, descriptor)
    _mount_devices(devices, limits.scratch_bytes)
    _set_attributes("/", _RDONLY_ATTRIBUTE | _NOSUID_ATTRIBUTE | _NODEV_ATTRIBUTE, 0, _AT_RECURSIVE)
    for folder in (SCRATCH, SHARED):
        _set_attributes(folder, 0, _RDONLY_ATTRIBUTE)
    for name in DEVICES:
        _set_attributes(f"/dev/{name}", 0, _NODEV_ATTRIBUTE)
    os.chdir(SCRATCH)


def _needed() -> list[str]:
    """Where this Python is, outermost folders first."""
    named = [sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path]
    paths = {path for name in named if name for path in (os.path.abspath(name), os.path.realpath(name))}
    return sorted(path for path in paths if os.path.isdir(path))


def _hidden() -> list[str]:
    with suppress(KeyError):
        home = os.path.realpath(pwd.getpwuid(os.getuid()).pw_dir)
        if home != "/" and not home.startswith(SYSTEM):
            return _folders((SCRATCH, *HIDDEN, home))
    return _folders((SCRATCH, *HIDDEN))


def _folders(paths: Iterable[str]) -> list[str]:
    """Existing ones without those inside another: an outer one hides them too."""
    kept: list[str] = []
    for path in sorted({os.path.realpath(path) for path in paths}):
        if os.path.isdir(path) and not any(_is_inside(path, outer) for outer in kept):
            kept.append(path)
    return kept


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _mount_empty(folder: str, size: int) -> None:
    libc.call("mount", "none", folder, "tmpfs", _NOSUID | _NODEV, f"mode=1777,size={size},nr_inodes=4096")


def _put_back(path: str, descriptor: int) -> None:
    """Make a folder of the old world visible again where it was, if it was hidden."""
    if not os.path.isdir(path):
        os.makedirs(path, mode=0o755)
        libc.call("mount", f"/proc/self/fd/{descriptor}", path, None, _BIND | _REC, None)
    os.close(descriptor)


def _mount_devices(devices: dict[str, int], size: int) -> None:
    """A /dev of harmless devices and of shared memory."""
    libc.call("mount", "none", "/dev", "tmpfs", _NOSUID, "mode=755,size=65536")
    for name, descriptor in devices.items():
        Path(f"/dev/{name}").touch()
        libc.call("mount", f"/proc/self/fd/{descriptor}", f"/dev/{name}", None, _BIND, None)
        os.close(descriptor)
    os.symlink("/proc/self/fd", "/dev/fd")
    os.mkdir(SHARED)
    _mount_empty(SHARED, size)


class _Attributes(Structure):
    _fields_ = [("set", c_uint64), ("clear", c_uint64), ("propagation", c_uint64), ("users", c_uint64)]


def _set_attributes(path: str, added: int, cleared: int, flags: int = 0) -> None:
    """mount_setattr(2), of Linux 5.12 and later."""
    wanted = _Attributes(added, cleared, 0, 0)
    libc.call("syscall", _MOUNT_SETATTR, _AT_FDCWD, path, flags, byref(wanted), sizeof(wanted))
