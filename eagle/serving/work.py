"""One request on its way through the server: what it wants, and how far it is."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from eagle.decode import DecodeOptions, Step
from eagle.serving.events import Event, Usage


@dataclass(frozen=True)
class Ask:
    """What a request wants, checked and in tokens."""

    prompts: tuple[tuple[int, ...], ...]
    seeds: tuple[int, ...]  # one an answer: those of the first prompt, of the second, ..
    options: DecodeOptions
    stop: tuple[str, ...] = ()  # answers end before one of these

    @property
    def num_answers(self) -> int:
        """To each prompt."""
        return len(self.seeds) // len(self.prompts)


class Job:
    """An `Ask` under way. `deliver` may be called from any thread."""

    def __init__(self, ask: Ask, deliver: Callable[[Event], None]):
        self.ask, self.deliver = ask, deliver
        self.usage = Usage()
        self.cancelled = False
        self.arrived_s = self.step_s = time.perf_counter()
        self.started_s: float | None = None  # when it left the queue
        self.first_s: float | None = None  # when its first token was there
        self.finishes: list[str] = []  # of the answers that are complete

    def count(self, step: Step, num_tokens: int) -> None:
        """A step, of which so many tokens belong to the answer."""
        accepted = min(step.num_accepted, num_tokens)
        self.usage.answer += num_tokens
        self.usage.accepted += accepted
        self.usage.rejected += num_drafted(step) - accepted


def num_drafted(step: Step) -> int:
    """Nodes of the round's tree below its root."""
    return 0 if step.round is None else step.round.tree.num_nodes - 1
