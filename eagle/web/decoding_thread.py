"""All rounds of all browsers in one thread, in the order in which they were asked for.

One round at a time: two answers at once take turns, neither waits for the other's end, and milliseconds are those of
one answer. One thread: kernels find their workers where they left them.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class DecodingThread:
    """Runs what it is given, first come first served."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decoding")

    def run(self, work: Callable[[], T]) -> T:
        """Its result, when its turn has come; what it raises is raised here."""
        return self._executor.submit(work).result()

    def steps(self, items: Iterator[T]) -> Iterator[T]:
        """The items, each of them made in a turn of its own."""
        end: Any = object()
        while (item := self.run(lambda: next(items, end))) is not end:
            yield item

    def close(self) -> None:
        """Nothing more is taken; who waits is told by an error."""
        self._executor.shutdown(wait=False, cancel_futures=True)
