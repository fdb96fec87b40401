"""Predicted against measured: a plan's tokens a target pass and latency beside those of its answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eagle.bootstrap import Interval, Resamples, interval
from eagle.hierarchy.plans import Plan, Range
from eagle.hierarchy.watch import Compared, Watch
from evaluation.rows import AnswerRow, Key

ARM = "hierarchy"


@dataclass(frozen=True)
class Beside:
    """One number of a plan."""

    name: str
    predicted: float
    predicted_range: Range | None
    measured: Interval  # questions drawn anew

    @property
    def told(self) -> str:
        return (
            f"{self.name}: predicted {self.predicted:.3g}{_range(self.predicted_range)}, "
            f"measured {self.measured.value or 0:.3g}{_range((self.measured.low, self.measured.high))}"
        )


def compare_with_plan(rows: Mapping[Key, AnswerRow], plan: Plan, watch: Watch | None, resamples: int) -> dict[str, Any]:
    """Of the answers at the plan's temperature: numbers as JSON has them and as lines of text; empty without any."""
    temperature = plan.provenance.get("temperature")
    own = [row for row in rows.values() if row.key.arm == ARM and row.key.temperature == temperature]
    if not own:
        return {}
    beside = _beside(own, plan, resamples)
    pairs = watch.compared() if watch is not None else []
    lines = [*(one.told for one in beside), *(_pair(one) for one in pairs if one.rounds)]
    return {"temperature": temperature, "numbers": [asdict(one) for one in beside], "lines": lines}


def _beside(rows: Sequence[AnswerRow], plan: Plan, resamples: int) -> list[Beside]:
    questions = sorted({(row.key.task, row.key.question) for row in rows})
    drawn = Resamples(len(questions), resamples, seed=0)
    tokens, rounds, ms = (_sums(rows, questions, name) for name in ("tokens", "rounds", "ms"))
    return [
        Beside(
            "tokens a target pass",
            plan.tokens_per_pass,
            plan.tokens_range,
            interval(drawn.ratio(tokens, rounds)),
        ),
        Beside("ms a token", plan.ms_per_token, plan.ms_range, interval(drawn.ratio(ms, tokens))),
    ]


def _sums(rows: Iterable[AnswerRow], questions: Sequence[tuple[str, str]], name: str) -> Any:
    sums = np.zeros(len(questions))
    for row in rows:
        answer = row.generation
        values = {"tokens": answer.num_decoded, "rounds": answer.rounds, "ms": 1000 * answer.seconds.decode}
        sums[questions.index((row.key.task, row.key.question))] += values[name]
    return sums


def _pair(one: Compared) -> str:
    return (
        f"{one.source} by {one.reader}: acceptance a token predicted {one.predicted.alpha:.3f}, lately "
        f"{one.running.alpha:.3f}, {one.rounds} rounds"
    )


def _range(found: tuple[float | None, float | None] | None) -> str:
    return f" [{found[0]:.3g}, {found[1]:.3g}]" if found and None not in found else ""
