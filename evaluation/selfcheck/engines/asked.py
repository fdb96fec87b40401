"""What an engine is asked and what it answers, as values that go through JSON to its process and back."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request."""

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Answered:
    """What came of the requests of one batch."""

    texts: tuple[tuple[int, ...], ...]  # token ids, in the order in which they were asked
    seconds: float
    num_drafts: int  # rounds with a draft
    num_accepted: int  # of drafted tokens

    @property
    def tau(self) -> float:
        """Accepted draft tokens a round, as the engine counts them."""
        return self.num_accepted / max(self.num_drafts, 1)


@dataclass(frozen=True)
class EngineSetup:
    """How an engine is opened: what `LLM(...)` is given, and the environment of its process."""

    name: str
    options: dict[str, Any]
    environment: dict[str, str]


def write_batches(path: Path, setup: EngineSetup, batches: Sequence[Sequence[Asked]]) -> None:
    asked = [[asdict(request) for request in batch] for batch in batches]
    path.write_text(json.dumps({"options": setup.options, "batches": asked}), encoding="utf-8")


def read_batches(path: Path) -> tuple[dict[str, Any], list[list[Asked]]]:
    """Options of the engine, and the batches."""
    plan = json.loads(path.read_text(encoding="utf-8"))
    return plan["options"], [[Asked(**request) for request in batch] for batch in plan["batches"]]


def write_answers(path: Path, answers: Sequence[Answered]) -> None:
    path.write_text(json.dumps([asdict(answer) for answer in answers]), encoding="utf-8")


def read_answers(path: Path) -> list[Answered]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Answered(**{**row, "texts": tuple(map(tuple, row["texts"]))}) for row in rows]
