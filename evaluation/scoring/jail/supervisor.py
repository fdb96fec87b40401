"""The parent of both processes of a trial: starts them, and ends it when they use too much together.

In namespaces it is the first process: no signal from inside stops it, and when it ends the kernel ends the rest.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from evaluation.scoring.jail import guards, libc
from evaluation.scoring.jail.candidate import serve
from evaluation.scoring.jail.channel import Channel, Closed, open_pair
from evaluation.scoring.jail.examiner import examine
from evaluation.scoring.jail.limits import Ended, Limits
from evaluation.scoring.jail.privileges import give_up

POLL_S = 0.01
PRINTED = "printed"  # the file of what the program prints
_MOST_DESCRIPTORS = 1 << 16


def supervise(limits: Limits, user: int, isolated: bool) -> Ended:
    """Run the job on standard input in this folder. Raises OSError where a process cannot give up its privileges."""
    libc.hide_memory()
    tests_side, program_side = open_pair()
    with open(PRINTED, "wb") as printed:
        os.fchown(printed.fileno(), user, -1)

        def run_candidate() -> Ended:
            _redirect(os.devnull, printed.fileno(), program_side)
            give_up(limits, user, isolated)
            if not isolated:
                guards.guard(Path.cwd())
            with suppress(Closed):
                serve(Channel(*program_side))
            return Ended.FAILED

        candidate = start(run_candidate)  # before anyone has read the tests

    def run_examiner() -> Ended:
        source, complaints = os.dup(0), os.dup(2)
        _redirect(os.devnull, os.open(os.devnull, os.O_WRONLY), (*tests_side, source, complaints))
        give_up(limits, user, isolated)
        with os.fdopen(source, encoding="utf-8") as job:
            return examine(job, Channel(*tests_side), lambda text: os.write(complaints, text.encode()[:1000]))

    examiner = start(run_examiner)
    for end in (*tests_side, *program_side):
        os.close(end)
    return _watch(examiner, limits, lambda: _numbers(Path("/proc")) if isolated else [candidate, examiner])


def start(run: Callable[[], Ended]) -> int:
    """A child that ends with what `run` returns, and never comes back into this code."""
    child = os.fork()
    if child == 0:
        _end_with(run)
    return child


def _end_with(run: Callable[[], Ended]) -> NoReturn:
    ended = Ended.NO_JAIL
    try:
        libc.die_with_parent(signal.SIGKILL)
        ended = run()
    except OSError as error:
        print(error, file=sys.stderr)
    finally:
        os._exit(ended)


def _redirect(stdin: str, stdout: int, kept: Iterable[int]) -> None:
    """Standard streams that lead nowhere else; no other descriptor stays open but those that are kept."""
    os.dup2(os.open(stdin, os.O_RDONLY), 0)
    os.dup2(stdout, 1)
    os.dup2(stdout, 2)
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, _MOST_DESCRIPTORS)


def _watch(examiner: int, limits: Limits, processes: Callable[[], list[int]]) -> Ended:
    """How the examiner ended, or FAILED as soon as the processes are too many or too large."""
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == examiner:
            return Ended.of(status)
        running = processes()
        if len(running) > limits.processes or sum(map(_resident_bytes, running)) > limits.memory_bytes:
            return Ended.FAILED
        if ended == 0:
            time.sleep(POLL_S)


def _numbers(folder: Path) -> list[int]:
    return [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()]


def _resident_bytes(process: int) -> int:
    """0 for one that is gone, and where the system does not tell."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * resource.getpagesize()
