"""At temperature 0 every arm must write the plain target's tokens. Where one does not, how near was the tie?

A tree is scored in another shape than a single token, so half-precision kernels may round differently and flip two
tokens whose logits are all but equal. Such flips are counted and their gap is shown; a large gap is a bug.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from eagle.engine.target import Target
from eagle.files import JsonLines
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
    gap: float | None = None  # logit of the expected token less that of the one found, after the same text
    answers: str = ""  # digest of both: a gap belongs to them

    def same_place(self, other: "Difference") -> bool:
        return (self.key, self.position, self.answers) == (other.key, other.position, other.answers)


def compared(rows: Mapping[Key, AnswerRow]) -> Iterator[tuple[AnswerRow, AnswerRow]]:
    """Greedy answers beside the baseline's answer to the same prompt. Later turns may have other prompts: left out."""
    for key, row in rows.items():
        base = rows.get(key._replace(arm=BASELINE))
        if key.temperature == 0 and key.arm != BASELINE and base and base.prompt_tokens == row.prompt_tokens:
            yield row, base


def first_difference(row: AnswerRow, base: AnswerRow) -> Difference | None:
    """None when the tokens are the same."""
    found, expected = row.generation.tokens, base.generation.tokens
    if found == expected:
        return None
    shorter = min(len(found), len(expected))
    position = next((i for i in range(shorter) if found[i] != expected[i]), shorter)
    answers = hashlib.sha256(repr((row.prompt_tokens, found, expected)).encode()).hexdigest()[:12]
    return Difference(row.key, position, _at(expected, position), _at(found, position), answers=answers)


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
    """Counts and gaps by task and arm."""
    counts: dict[tuple[str, str], int] = {}
    for row, _ in compared(rows):
        counts[row.key.task, row.key.arm] = counts.get((row.key.task, row.key.arm), 0) + 1
    listed = list(differences)
    return [_equality_row(task, arm, num, listed) for (task, arm), num in sorted(counts.items())]


def _equality_row(task: str, arm: str, num_compared: int, differences: list[Difference]) -> dict[str, Any]:
    own = [d for d in differences if (d.key.task, d.key.arm) == (task, arm)]
    gaps = sorted(abs(d.gap) for d in own if d.gap is not None)
    return {
        "task": task,
        "arm": arm,
        "compared": num_compared,
        "equal": num_compared - len(own),
        "median_gap": gaps[len(gaps) // 2] if gaps else None,
        "largest_gap": gaps[-1] if gaps else None,
    }


def _with_gap(difference: Difference, row: AnswerRow, target: Target) -> Difference:
    if difference.expected is None or difference.found is None:
        return difference
    ids = [*row.prompt_tokens, *row.generation.tokens[: difference.position]]
    logits = target.prefill(torch.tensor(ids, device=target.device), target.new_cache()).logits[0].float()  # (V,)
    gap = float(logits[difference.expected] - logits[difference.found])
    return replace(difference, gap=gap)


def _at(tokens: tuple[int, ...], position: int) -> int | None:
    return tokens[position] if position < len(tokens) else None


def _from_json(values: dict[str, Any]) -> Difference:
    return Difference(**{**values, "key": Key(**values["key"])})
