"""The process of the model's program: runs it, then answers calls of its functions until nobody asks.

It knows neither the tests nor how answers are judged: it is started before they are read. What it holds that the
program could misuse is its own end of the channel.
"""

import sys
from types import ModuleType
from typing import Any

from evaluation.scoring.jail import plain
from evaluation.scoring.jail.channel import ENDED, READY, Channel


def serve(channel: Channel) -> None:
    """Run the program that comes first, say that it ended, answer calls. Returns early when the program fails."""
    sys.set_int_max_str_digits(0)
    channel.send(READY)
    job = channel.receive()
    module = ModuleType(job["name"])
    sys.modules[job["name"]] = module
    try:
        exec(compile(job["program"], "candidate.py", "exec"), module.__dict__)
    except BaseException:  # SystemExit too: leaving early is not reaching the end
        return
    channel.send(ENDED)
    while True:
        call = channel.receive()
        channel.send_line(_answer(module, call["name"], call["args"], call["kwargs"]))


def _answer(module: ModuleType, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    try:
        return plain.dumps({"value": getattr(module, name)(*args, **kwargs)})
    except Exception as error:
        return plain.dumps({"raised": type(error).__name__})
