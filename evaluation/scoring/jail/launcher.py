"""The program that the evaluator starts for every trial: the clock, and the last one to leave.

    python -I -c "..." LIMITS FOLDER        # FOLDER only without namespaces; the job comes on standard input

Ends with a code of `Ended`, and not before every process of the trial is gone.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from evaluation.scoring.jail import libc, namespaces
from evaluation.scoring.jail.limits import Ended, Limits
from evaluation.scoring.jail.privileges import harmless_user
from evaluation.scoring.jail.supervisor import start, supervise

POLL_S = 0.002


def main() -> None:
    limits, folder = Limits(**json.loads(sys.argv[1])), sys.argv[2] if len(sys.argv) > 2 else None
    try:
        libc.die_with_parent(signal.SIGKILL)
        ended = _run(limits, folder)
    except OSError as error:
        print(error, file=sys.stderr)
        ended = Ended.NO_JAIL
    os._exit(ended)


def _run(limits: Limits, folder: str | None) -> Ended:
    isolated = folder is None
    if folder is not None:
        os.chdir(folder)
    libc.adopt_orphans()
    user = namespaces.enter() if isolated else harmless_user()

    def run_supervisor() -> Ended:
        if isolated:
            namespaces.furnish(limits)
        return supervise(limits, user, isolated)

    ended = _wait(start(run_supervisor), time.monotonic() + limits.wall_s)
    _kill_orphans()
    return ended


def _wait(child: int, until: float) -> Ended:
    """How it ended, FAILED when the time is over. Behind a first process of namespaces nothing is left then."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return Ended.of(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ended.FAILED
        time.sleep(POLL_S)


def _kill_orphans() -> None:
    """End what is left without namespaces. Every orphan is this process's child by now."""
    while True:
        for process in _children():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)
            continue
        return


def _children() -> list[int]:
    """Living children of this process, where the system tells."""
    found = []
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        with suppress(OSError, ValueError, IndexError):
            parent = (entry / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.append(int(entry.name))
    return found
