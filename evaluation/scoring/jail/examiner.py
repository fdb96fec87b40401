"""The process of the benchmark's tests: asks the program's process for values and compares them here.

A pass is decided where no line of the program runs. The program can answer wrongly, late or not at all; it cannot see
what is compared, nor change how.
"""

import builtins
import json
import sys
from collections.abc import Callable
from typing import Any, TextIO

from evaluation.scoring.jail import plain
from evaluation.scoring.jail.channel import ENDED, READY, Channel, Closed
from evaluation.scoring.jail.limits import Ended

CHECK = "check"  # what the tests define: a function of the candidate, as in HumanEval


class Unfit(Exception):
    """The tests cannot be run, whatever the program does."""


def examine(source: TextIO, channel: Channel, complain: Callable[[str], object]) -> Ended:
    """Read the job from `source`, run its tests against the other side of the channel; `complain` hears of unfit ones.

    A job has `program`, and `setup`, `test` and `entry_point` where it has tests.
    """
    sys.set_int_max_str_digits(0)
    job = json.load(source)
    try:
        if channel.receive() != READY:  # said before the program is there, which may say anything
            raise Closed
    except Closed:
        complain("the process of the program could not give up its privileges")
        return Ended.NO_JAIL
    try:
        return Ended.PASSED if _holds(job, channel) else Ended.FAILED
    except Unfit as error:
        complain(str(error))
        return Ended.UNFIT


def _holds(job: dict[str, str], channel: Channel) -> bool:
    has_tests = "test" in job
    check = _prepared(job, channel) if has_tests else None
    try:
        channel.send({"program": job["program"], "name": "candidate" if has_tests else "__main__"})
        if channel.receive() != ENDED:
            return False
        if check is not None:
            check(_stand_in(job["entry_point"], channel))
        return True
    except Unfit:
        raise
    except BaseException:  # a failed assertion, a SystemExit of the tests, a program that is gone
        return False


def _prepared(job: dict[str, str], channel: Channel) -> Callable[[Any], object]:
    """The function `check`, in a module where the setup ran and the entry point stands for the program's."""
    names: dict[str, Any] = {"__name__": "tests"}
    try:
        exec(compile(job["setup"], "setup.py", "exec"), names)
        names[job["entry_point"]] = _stand_in(job["entry_point"], channel)
        exec(compile(job["test"], "test.py", "exec"), names)
        check: Callable[[Any], object] = names[CHECK]
    except Exception as error:
        raise Unfit(f"{type(error).__name__}: {error}") from None
    return check


def _stand_in(name: str, channel: Channel) -> Callable[..., Any]:
    """A function that asks the program's function of that name."""

    def ask(*args: Any, **kwargs: Any) -> Any:
        if not plain.is_plain((args, kwargs)):
            raise Unfit(f"{name} is called with something that is no number, text or collection of them")
        channel.send({"name": name, "args": args, "kwargs": kwargs})
        answer = channel.receive()
        if not isinstance(answer, dict) or "value" not in answer:
            raise _error(answer)
        return answer["value"]

    return ask


def _error(answer: Any) -> Exception:
    """What the program's function raised, where Python has an exception of that name."""
    if not isinstance(answer, dict) or not isinstance(answer.get("raised"), str):
        return Closed("not an answer")
    kind = getattr(builtins, answer["raised"], None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError):
        return kind("raised by the program")
    return RuntimeError(f"the program raised {answer['raised']}")  # UnicodeErrors are made from more than a message
