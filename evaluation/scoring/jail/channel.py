"""Two pipes between the tests and the program, a line a message."""

import os
from typing import Any

from evaluation.scoring.jail import plain

READY = {"ready": True}  # the program's process has given up what it has to, and not seen the program yet
ENDED = {"ended": True}  # the program ran to its end


class Closed(Exception):
    """The other side is gone, or what it says is no message."""


class Channel:
    """One side of both pipes."""

    def __init__(self, reading: int, writing: int):
        self._in, self._out = os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0)

    def send(self, value: Any) -> None:
        """Raises Closed when nobody reads."""
        self.send_line(plain.dumps(value))

    def send_line(self, line: bytes) -> None:
        view = memoryview(line)
        try:
            while view:
                view = view[self._out.write(view) :]
        except OSError as error:
            raise Closed(str(error)) from None

    def receive(self) -> Any:
        """Raises Closed at the end and at a line that is no message."""
        line = self._in.readline(plain.MOST_BYTES)
        try:
            return plain.loads(line)
        except ValueError as error:
            raise Closed(str(error)) from None


def open_pair() -> tuple[tuple[int, int], tuple[int, int]]:
    """Descriptors (reading, writing) of both sides."""
    (first_in, second_out), (second_in, first_out) = os.pipe(), os.pipe()
    return (first_in, first_out), (second_in, second_out)
