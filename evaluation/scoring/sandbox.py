"""Runs a program that a model wrote, in a subprocess with limits.

Enforced everywhere: wall-clock time (the process group is killed), CPU time, memory, size of written files, no core
files, an empty environment, a temporary working directory, Python's isolated mode. Without a network: an empty network
and process namespace where the system lets us create one (`unshare`), else Python's sockets are replaced by a refusal.
Not enforced: the file system can be read. That stops accidents of a language model, not an attacker.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

NAMESPACES = ("unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child")

# The limits are set by the child before it reads the candidate: a preexec function is unsafe beside torch's threads.
_PRELUDE = """
import resource, socket
for kind, limit in (({cpu}, "CPU"), ({memory}, "AS"), ({file_size}, "FSIZE"), (0, "CORE")):
    resource.setrlimit(getattr(resource, "RLIMIT_" + limit), (kind, kind))
def refuse(*args, **kwargs):
    raise OSError("no network in the sandbox")
socket.socket = socket.create_connection = socket.getaddrinfo = refuse
exec(compile(open("candidate.py").read(), "candidate.py", "exec"), {{"__name__": "__main__"}})
print({token!r})
"""


@dataclass(frozen=True)
class Limits:
    wall_s: float = 5.0
    cpu_s: int = 5
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20


def passes(source: str, limits: Limits = Limits()) -> bool:
    """Whether the program runs to its end. Leaving early by `sys.exit(0)` is not reaching the end."""
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="sandbox-") as directory:
        folder = Path(directory)
        (folder / "candidate.py").write_text(source, encoding="utf-8")
        prelude = _PRELUDE.format(
            cpu=limits.cpu_s, memory=limits.memory_bytes, file_size=limits.file_bytes, token=token
        )
        (folder / "run.py").write_text(prelude, encoding="utf-8")
        with (folder / "output").open("wb") as output:  # a file: a flood ends at the file size, not in our memory
            returned = _run([*_namespaces(), sys.executable, "-I", "run.py"], folder, output, limits.wall_s)
        return returned == 0 and (folder / "output").read_bytes().rstrip().endswith(token.encode())


def isolation() -> str:
    """What keeps the program away from the network on this machine, for the report."""
    return "network namespace" if _namespaces() else "sockets refused inside Python"


def _run(command: list[str], folder: Path, output: IO[bytes], wall_s: float) -> int | None:
    """The exit code, None when the time was over."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(wall_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _kill_group(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@cache
def _namespaces() -> tuple[str, ...]:
    """The prefix that starts a command without a network; empty where the system refuses it."""
    if shutil.which(NAMESPACES[0]) is None:
        return ()
    probe = subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False)
    return NAMESPACES if probe.returncode == 0 else ()
