"""Answers that must have the plain target's tokens: all at temperature 0, coupled ones at any. How near were the ties?

A tree is scored in another shape than a single token, so half-precision kernels may round differently and flip two
tokens that are all but equal. Such flips are counted and their gap is shown; a large gap is a bug. Above temperature 0
tokens are compared by `z + T g`, with the noise g that the row's seed stands for.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from eagle.agreement import chosen_tokens, parting, tie_gap
from eagle.engine.target import Target
from eagle.files import JsonLines
from eagle.sampling import Sampling
from evaluation.arms import BASELINE
from evaluation.rows import AnswerRow, Key, read_as

FILE = "differences.jsonl"


@dataclass(frozen=True)
class Difference:
    """Where an answer leaves the plain target's."""

    key: Key
    position: int
    expected: int | None  # None: the plain answer ended here
    found: int | None
    gap: float | None = None  # of the expected token less that of the one found, as the target compares them
    answers: str = ""  # digest of both: a gap belongs to them

    def same_place(self, other: "Difference") -> bool:
        return (self.key, self.position, self.answers) == (other.key, other.position, other.answers)


class Group(NamedTuple):
    """What is counted together."""

    task: str
    arm: str
    temperature: float


def group_of(key: Key) -> Group:
    return Group(key.task, key.arm, key.temperature)


def compared(rows: Mapping[Key, AnswerRow]) -> Iterator[tuple[AnswerRow, AnswerRow]]:
    """Answers that must equal the baseline's to the same prompt, beside it.

    Later turns may have other prompts: left out. So are plain answers of older versions, which are other draws.
    """
    return ((row, base) for row, base in _beside_baseline(rows) if _same_draw(row, base))


def first_difference(row: AnswerRow, base: AnswerRow) -> Difference | None:
    """None when the tokens are the same."""
    found, expected = row.generation.tokens, base.generation.tokens
    parted = parting(expected, found)
    if parted is None:
        return None
    answers = hashlib.sha256(repr((row.prompt_tokens, found, expected)).encode()).hexdigest()[:12]
    return Difference(row.key, **asdict(parted), answers=answers)


def measure_differences(rows: Mapping[Key, AnswerRow], target: Target, folder: Path) -> list[Difference]:
    """Every difference with its gap. Known ones are read from the folder, so that a second run costs nothing.

    Raises ValueError that names the file where it is damaged.
    """
    file = JsonLines(folder / FILE)
    known = {difference.key: difference for difference in read_as(file, _from_json)}
    differences = []
    for row, base in compared(rows):
        found = first_difference(row, base)
        if found is not None:
            old = known.get(row.key)
            differences.append(old if old and old.same_place(found) else _with_gap(found, row, target))
    file.replace({**asdict(d), "key": d.key._asdict()} for d in differences)
    return differences


def summarise_equality(rows: Mapping[Key, AnswerRow], differences: Iterable[Difference]) -> list[dict[str, Any]]:
    """Counts and gaps by task, arm and temperature."""
    groups: dict[Group, list[bool]] = {}  # of every answer: whether it could be compared
    for row, base in _beside_baseline(rows):
        groups.setdefault(group_of(row.key), []).append(_same_draw(row, base))
    listed = list(differences)
    return [_equality_row(group, groups[group], listed) for group in sorted(groups)]


def _beside_baseline(rows: Mapping[Key, AnswerRow]) -> Iterator[tuple[AnswerRow, AnswerRow]]:
    for key, row in rows.items():
        base = rows.get(key._replace(arm=BASELINE))
        is_settled = key.temperature == 0 or row.generation.coupled
        if is_settled and key.arm != BASELINE and base and base.prompt_tokens == row.prompt_tokens:
            yield row, base


def _same_draw(row: AnswerRow, base: AnswerRow) -> bool:
    """Whether both answers are one text: greedy, or of one noise field."""
    return row.key.temperature == 0 or (base.generation.coupled and base.draw_seed == row.draw_seed)


def _equality_row(group: Group, comparable: list[bool], differences: list[Difference]) -> dict[str, Any]:
    own = [d for d in differences if group_of(d.key) == group]
    gaps = sorted(abs(d.gap) for d in own if d.gap is not None)
    return {
        **group._asdict(),
        "compared": sum(comparable),
        "equal": sum(comparable) - len(own),
        "other_draws": comparable.count(False),  # beside plain answers of older versions
        "first_difference": min((d.position for d in own), default=None),
        "median_gap": gaps[len(gaps) // 2] if gaps else None,
        "largest_gap": gaps[-1] if gaps else None,
    }


def _with_gap(difference: Difference, row: AnswerRow, target: Target) -> Difference:
    if difference.expected is None or difference.found is None:
        return difference
    ids = [*row.prompt_tokens, *row.generation.tokens[: difference.position]]
    judged = chosen_tokens(Sampling(row.key.temperature), row.draw_seed, target)
    return replace(difference, gap=tie_gap(target, ids, judged, difference.expected, difference.found))


def _from_json(values: dict[str, Any]) -> Difference:
    return Difference(**{**values, "key": Key(**values["key"])})
