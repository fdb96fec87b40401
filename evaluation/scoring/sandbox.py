"""Runs programs that a model wrote, apart from everything else, and says whether they pass.

`solves` judges a program by tests: they run in another process, which asks the program's for values and compares them
itself. `passes` runs one program to its end.

What holds where the kernel gives namespaces to users (Linux 5.12 or later, most systems outside of containers):

- Files: all are read-only. Homes, `/tmp`, `/run` and `/dev/shm` are empty ones of the program's own, in memory, of
  limited size, and gone afterwards. Of the devices the harmless ones are there.
- Processes: it sees and signals its own only. They are limited in number and in resident memory together, and all are
  killed when the program ends, or when its time is over, stopped or not.
- No network, no socket in the file system, no capability, and none to be had; root's programs run as nobody. A filter
  of system calls (on x86-64 and arm64) refuses tracing, mounts, keys, and memory that no limit counts.
- A pass of `solves` means that the tests ran to their end on values that the program's process gave. There is no token
  to find: the program's process knows neither tests nor verdict.

What does not hold: `passes` takes the program's own word that it reached its end, so a program that speaks our protocol
can lie about itself (not by leaving early, exiting, or printing). The kernel itself is no barrier of ours: a fault in
it is a way out. The system's files can be read. Memory that is shared and unmapped counts only once it is mapped.

Without namespaces programs run only where `unsafe` says so, in a folder of their own, with limits on each process, as
nobody if the evaluator is root and Python's files are readable to all. The filter refuses sockets, new processes and
signals to others; hooks inside Python refuse writing elsewhere. A program that gets around Python's own ways can
write what this user may write; where there is no filter it can do whatever this user may do.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from evaluation.scoring.jail.filters import supported
from evaluation.scoring.jail.limits import Ended, Limits

__all__ = ["Exam", "Limits", "isolation", "passes", "refuse_unsafe", "solves", "warning"]

ROOT = Path(__file__).parents[2]
LAUNCH = (
    "import sys; sys.path.insert(0, {root!r}); from evaluation.scoring.jail.launcher import main; "
    "sys.path.pop(0); main()"
)
USUAL = Limits()
GRACE_S = 30.0  # for the launcher itself, on a busy machine
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"} | dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    "1",  # NumPy starts a thread a core, over the limit
)
REMEDY = "--unsafe-sandbox"


@dataclass(frozen=True)
class Exam:
    """What a program is judged by: Python that defines `check(candidate)`, of values that are plain data."""

    test: str
    entry_point: str  # the function of the program that `check` gets
    setup: str = ""  # runs before the tests, in their process


def solves(program: str, tests: Exam, limits: Limits = USUAL, unsafe: bool = False) -> bool:
    """Whether the program's function passes the tests.

    Raises ValueError where the tests cannot be run, and without namespaces unless `unsafe`.
    """
    return _passed({"program": program, **asdict(tests)}, limits, unsafe)


def passes(source: str, limits: Limits = USUAL, unsafe: bool = False) -> bool:
    """Whether the program runs to its end; leaving early, by whatever way, is not reaching it. Raises as `solves`."""
    return _passed({"program": source}, limits, unsafe)


def isolation() -> str:
    """What keeps programs apart on this machine, for the report."""
    if refusal() is None:
        return "namespaces: own file system, processes and network"
    return f"no namespaces: guards in Python{', filtered system calls' if supported() else ''}"


def refuse_unsafe(unsafe: bool) -> None:
    """Raises ValueError where programs are not kept apart and nobody said that they may run all the same."""
    if not unsafe and refusal() is not None:
        raise ValueError(
            f"{warning()} To run programs of a model all the same, say {REMEDY}; or leave their task out of --tasks"
        )


def warning() -> str | None:
    """What cannot be guaranteed on this machine, None where all of it can."""
    reason = refusal()
    if reason is None:
        return None
    open_ways = "files of this user" if supported() else "files, processes and the network of this user"
    return f"no namespaces for the sandbox here ({reason}), so that a program may get at {open_ways}."


@cache
def refusal() -> str | None:
    """Why namespaces cannot be had here, None where they can."""
    ended, told = _launch({"program": "pass"}, Limits(wall_s=GRACE_S), None)
    if ended == Ended.PASSED:
        return None
    return told.strip().partition("\n")[0] or f"the trial ended with {ended}"


def _passed(job: dict[str, str], limits: Limits, unsafe: bool) -> bool:
    refuse_unsafe(unsafe)
    if refusal() is None:
        return _verdict(*_launch(job, limits, None))
    with TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o777)
        return _verdict(*_launch(job, limits, folder))


def _verdict(ended: int, told: str) -> bool:
    """Raises ValueError for tests that cannot be run, OSError where the sandbox cannot be set up."""
    if ended == Ended.UNFIT:
        raise ValueError(f"the tests of this question cannot be run: {told}")
    if ended == Ended.NO_JAIL:
        raise OSError(f"the sandbox could not be set up: {told}")
    return ended == Ended.PASSED


def _launch(job: dict[str, str], limits: Limits, folder: str | None) -> tuple[int, str]:
    """Exit code of the launcher, and what it told; it stops by itself, and is stopped if it does not."""
    words = [json.dumps(asdict(limits)), *([folder] if folder else [])]
    command = [sys.executable, "-I", "-c", LAUNCH.format(root=str(ROOT)), *words]
    with subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _, told = process.communicate(json.dumps(job), limits.wall_s + GRACE_S)
            return process.returncode, told
        except subprocess.TimeoutExpired:
            return Ended.FAILED, ""
        finally:
            process.kill()  # with it dies the first process of the namespaces, and with that the rest
