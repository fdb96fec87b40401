"""Rows of one (task, arm, temperature) as sums a question, from which every reported number is a ratio.

Letters: Q questions of the task, B resamples.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from eagle.bootstrap import Array, Resamples
from evaluation.rows import AnswerRow

Answer = tuple[str, int, int]  # question, turn, seed: what arms are paired by
Value = Callable[[AnswerRow], float | None]  # of a row; None counts as nothing


def answer_of(row: AnswerRow) -> Answer:
    return row.key.question, row.key.turn, row.key.seed


@dataclass(frozen=True)
class Cell:
    """The answers of one arm, laid out along the task's questions."""

    rows: Sequence[AnswerRow]
    questions: Sequence[str]
    resamples: Resamples

    @cached_property
    def answers(self) -> set[Answer]:
        return {answer_of(row) for row in self.rows}

    def only(self, answers: Collection[Answer]) -> "Cell":
        """The same arm on some of its answers."""
        return Cell([row for row in self.rows if answer_of(row) in answers], self.questions, self.resamples)

    def unflagged(self) -> set[Answer]:
        """Answers that ended by themselves and do not run in circles."""
        return {answer_of(row) for row in self.rows if not (row.capped or row.degenerate)}

    @property
    def seconds_per_pass(self) -> list[float]:
        """Of every answer with rounds."""
        return [row.generation.seconds.decode / row.generation.rounds for row in self.rows if row.generation.rounds]

    def sums(self, value: Value) -> Array:
        """Sum of a value over each question's answers: (Q,); None counts as nothing."""
        index = {question: i for i, question in enumerate(self.questions)}
        sums = np.zeros(len(index))
        for row in self.rows:
            sums[index[row.key.question]] += value(row) or 0.0
        return sums

    def ratio(self, numerator: Value, denominator: Value) -> Array:
        """Ratio of sums, (B + 1,)."""
        return self.resamples.ratio(self.sums(numerator), self.sums(denominator))

    def mean_over_questions(self, numerator: Value, denominator: Value) -> Array:
        """Mean of each question's own ratio, (B + 1,): long answers weigh no more than short ones."""
        below = self.sums(denominator)
        own = np.divide(self.sums(numerator), below, out=np.zeros_like(below), where=below > 0)
        return self.resamples.ratio(own, (below > 0).astype(float))


def num_rounds(row: AnswerRow) -> float:
    return row.generation.rounds


def num_accepted(row: AnswerRow) -> float:
    return sum(row.generation.accepted)


def num_decoded(row: AnswerRow) -> float:
    return row.generation.num_decoded


def num_tokens(row: AnswerRow) -> float:
    return len(row.generation.tokens)


def decode_s(row: AnswerRow) -> float:
    return row.generation.seconds.decode


def total_s(row: AnswerRow) -> float:
    return row.generation.seconds.total


def prefill_s(row: AnswerRow) -> float:
    return row.generation.seconds.prefill


def one(_row: AnswerRow) -> float:
    return 1.0


def tau(cell: Cell) -> Array:
    """Accepted draft tokens a round."""
    return cell.ratio(num_accepted, num_rounds)


def tokens_per_s(cell: Cell) -> Array:
    """Tokens after the first step, by the time after it."""
    return cell.ratio(num_decoded, decode_s)


def total_tokens_per_s(cell: Cell) -> Array:
    """All tokens, by all the time: reading the prompt counts."""
    return cell.ratio(num_tokens, total_s)


def num_identical(cell: Cell, base: Cell) -> int:
    """Answers of the two with the same tokens behind the same prompt: of a ratio of speeds only the times are left."""
    texts = {answer_of(row): (row.prompt_tokens, row.generation.tokens) for row in base.rows}
    return sum(texts.get(answer_of(row)) == (row.prompt_tokens, row.generation.tokens) for row in cell.rows)


def speedup(cell: Cell, base: Cell, speed: Callable[[Cell], Array] = tokens_per_s) -> Array:
    """How many times faster than `base`, on the answers both gave, from the same resampled questions: (B + 1,)."""
    shared = cell.answers & base.answers
    return speed(cell.only(shared)) / speed(base.only(shared))
