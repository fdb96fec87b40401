"""Answers that are decoded side by side: a round of all rows shares its passes of the head and of the target.

    row 0   propose ~ ~ ~ | score | verdict | observe | step      ~ a level of its tree: one pass of the head
    row 1   propose ~     .  score | verdict | observe | step     . it waits until nobody drafts any more
    row 2   read a piece of its prompt                            a pass of its own

A row is a work of its own (`eagle.decode.Session.rounds`), with its own caches, drafter, generator, noise and rules, so
rows of any kinds go side by side, a row that ends leaves, and a new one may come before any round. What a row computes
is what it computes alone, but for sums in another order in the passes that it shares.
"""

import time
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar, cast

from eagle.coroutines import Request

Told = TypeVar("Told")
Work = Generator[Request | Told, Any, None]
"""Yields requests, whose answers it is sent, and what it has to tell: the end of a round of its own."""


@dataclass(eq=False)
class Row(Generic[Told]):
    """A work in a batch."""

    work: Work[Told]
    asked: Request | None = None  # not answered yet
    told: Told | None = None  # in the round under way
    seconds: float = 0.0  # its share of the time: its own work, and of a pass that n rows share the n-th part
    is_over: bool = False
    error: Exception | None = None  # why it is over, where it did not end by itself

    def go_on(self, answer: Any = None) -> None:
        """To its next request, what it tells next or its end."""
        start = time.perf_counter()
        self._take(lambda: self.work.send(answer))
        self.seconds += time.perf_counter() - start

    def fail(self, error: Exception) -> None:
        """Its request could not be answered."""
        self._take(lambda: self.work.throw(error))

    def _take(self, resume: Callable[[], Request | Told]) -> None:
        """Whatever goes wrong is this row's end alone."""
        self.asked = self.told = None
        try:
            found = resume()
        except StopIteration:
            self.is_over = True
        except Exception as error:
            self.is_over, self.error = True, error
        else:
            if isinstance(found, Request):
                self.asked = found
            else:
                self.told = found


class Batch(Generic[Told]):
    """Rows side by side. For one thread. Without `shares` every request is answered alone: rows take turns."""

    def __init__(self, shares: bool = True) -> None:
        self._shares = shares
        self._rows: list[Row[Told]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, work: Work[Told]) -> Row[Told]:
        """A row that takes part from the next round on."""
        self._rows.append(row := Row(work))
        return row

    def remove(self, row: Row[Told]) -> None:
        """Between two rounds; the work is closed."""
        self._rows.remove(row)
        row.work.close()

    def close(self) -> None:
        """Remove all."""
        for row in list(self._rows):
            self.remove(row)

    def advance(self) -> list[Row[Told]]:
        """One round: every row goes on until it tells something, is over, or has to wait for the next round.

        Returns the rows that did either of the first two; those that are over have left.
        """
        for row in self._rows:
            if row.asked is None:
                row.go_on()
        have_read: set[Row[Told]] = set()
        while asking := [row for row in self._rows if row.asked and not (row.asked.may_wait and row in have_read)]:
            for group in self._first_served(asking):
                have_read.update(row for row in group if row.asked and row.asked.may_wait)
                _answer(group)
        done = [row for row in self._rows if row.asked is None]
        self._rows = [row for row in self._rows if not row.is_over]
        return done

    def _first_served(self, asking: Sequence[Row[Told]]) -> list[list[Row[Told]]]:
        """Of rows that ask those that are answered first, in groups that share a pass."""
        groups: dict[Hashable, list[Row[Told]]] = {}
        lowest = min(row.asked.rank for row in asking if row.asked)
        for row in asking:
            if row.asked and row.asked.rank == lowest:
                partners = row.asked.partners if self._shares else None
                groups.setdefault((type(row.asked), row if partners is None else partners), []).append(row)
        return list(groups.values())


def _answer(group: Sequence[Row[Told]]) -> None:
    """One pass for all; where it fails it fails for all."""
    requests, start = [row.asked for row in group if row.asked], time.perf_counter()
    try:
        answers = [requests[0].alone()] if len(requests) == 1 else type(requests[0]).together(requests)
    except Exception as error:
        for row in group:
            row.fail(error)
    else:
        share = (time.perf_counter() - start) / len(group)
        for row, answer in zip(group, answers, strict=True):
            row.seconds += share
            row.go_on(answer)


def finish(works: Iterable[Work[Any]]) -> None:
    """Works side by side to their ends. Raises what one of them raises."""
    batch = Batch[Any]()
    try:
        for work in works:
            batch.add(work)
        while len(batch):
            for row in batch.advance():
                if row.error is not None:
                    raise row.error
    finally:
        batch.close()


def side_by_side(works: Iterable[Work[Told]], num_rows: int) -> Iterator[tuple[int, Told]]:
    """What works tell, each with its number, at most `num_rows` of them under way: the next one begins as one ends.

    Raises what a work raises; the others are then closed.
    """
    batch, queue, numbers = Batch[Told](), enumerate(works), dict[Row[Told], int]()
    try:
        while True:
            for number, work in islice(queue, num_rows - len(batch)):
                numbers[batch.add(work)] = number
            if not len(batch):
                return
            for row in batch.advance():
                if row.error is not None:
                    raise row.error
                if not row.is_over:
                    yield numbers[row], cast(Told, row.told)
    finally:
        batch.close()
