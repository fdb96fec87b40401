"""Work that asks for what it needs and goes on with the answer, so that somebody may answer many such works at once.

work         a generator: yields requests, is sent their answers, returns its result
alone        a request's own way to its answer, for whoever has one work only
together     the same for many requests of one kind
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Result = TypeVar("Result")
Other = TypeVar("Other")
Kind = TypeVar("Kind", bound="Request")


class Request(ABC):
    """Something that may be answered together with others of its class."""

    rank: ClassVar[int]  # of requests that wait at the same time those of the lowest rank are answered first
    may_wait: ClassVar[bool] = False  # one a round of a work is answered, the next one has to wait for the next round

    @abstractmethod
    def alone(self) -> Any:
        """The answer, by a pass of its own."""

    @property
    def partners(self) -> Hashable | None:
        """Requests of one class that are equal in this share a pass; None: this one is answered alone."""
        return None

    @classmethod
    def together(cls: type[Kind], asked: Sequence[Kind]) -> Sequence[Any]:
        """The answers to requests that share a pass."""
        return [request.alone() for request in asked]


@dataclass(frozen=True)
class Beside(Request):
    """Answered with the number of works that ask it in the same round, this one with them."""

    rank: ClassVar[int] = -1  # before anybody drafts

    def alone(self) -> int:
        return 1

    @property
    def partners(self) -> Hashable:
        return ()  # all of them

    @classmethod
    def together(cls, asked: "Sequence[Beside]") -> Sequence[int]:
        return [len(asked)] * len(asked)


Requests = Generator[Request, Any, Result]
"""Work that asks for passes."""


@dataclass(frozen=True)
class Done(Generic[Result]):
    """What a work returned."""

    result: Result


def resumed(work: Generator[Asked, Any, Result], told: Any = None) -> Asked | Done[Result]:
    """What a work asks next when it is told an answer, or its end."""
    try:
        return work.send(told)
    except StopIteration as end:
        return Done(end.value)


def answered(work: Generator[Asked, Answer, Result], answer: Callable[[Asked], Answer]) -> Result:
    """Does the work to its end, with `answer` for all that it asks; returns its result."""
    with closing(work):
        found = resumed(work)
        while not isinstance(found, Done):
            found = resumed(work, answer(found))
    return found.result


def answered_by(
    work: Generator[Asked, Answer, Result], answering: Callable[[Asked], Generator[Other, Any, Answer]]
) -> Generator[Other, Any, Result]:
    """The same where an answer is itself work, which asks for other things."""
    with closing(work):
        found = resumed(work)
        while not isinstance(found, Done):
            found = resumed(work, (yield from answering(found)))
    return found.result


def done_alone(work: Requests[Result]) -> Result:
    """Does the work to its end, every request by itself."""
    return answered(work, lambda request: request.alone())
