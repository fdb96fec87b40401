"""What profiling keeps: the rounds of every pair from every context."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

PLAIN = ""  # the source of plain decoding


class Pair(NamedTuple):
    """Who verifies whom; no source: plain decoding."""

    reader: str
    source: str


class Seen(NamedTuple):
    """One round."""

    window: int  # tokens asked for
    kept: int
    nodes: int  # without the root
    draft_ms: float
    ms: float  # of the rest of the round: pass, verdict, caches


@dataclass(frozen=True)
class Measured:
    """The rounds of one pair from one context."""

    pair: Pair
    prompt: str
    cut: int
    rounds: tuple[Seen, ...]

    def to_json(self) -> dict[str, Any]:
        return {**self.pair._asdict(), "prompt": self.prompt, "cut": self.cut, "rounds": self.rounds}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Measured":
        rounds = tuple(Seen(*values) for values in row["rounds"])
        return cls(Pair(row["reader"], row["source"]), row["prompt"], row["cut"], rounds)
