"""Bootstrap over questions, paired: every number of a task is computed from the same resampled questions.

Answers to one question share its difficulty, so questions are what is drawn again, not answers or rounds. All numbers
here are ratios of sums over questions, which makes a resample one weighted sum.

Letters: Q questions of a task, B resamples. Row 0 of every sample is the estimate itself, rows 1..B the resamples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its bootstrap percentile interval; None where there is nothing to estimate or to resample."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Resamples:
    """The resampled questions of one task: how often each question was drawn, `weights` (B + 1, Q)."""

    def __init__(self, num_questions: int, num_resamples: int, seed: int):
        uniform = np.full(num_questions, 1 / max(num_questions, 1))
        size = num_resamples if num_questions > 1 else 0  # one question says nothing about others
        drawn = np.random.default_rng(seed).multinomial(num_questions, uniform, size=size)
        self.weights: Array = np.vstack([np.ones((1, num_questions)), drawn])

    def total(self, per_question: Array) -> Array:
        """Sum over the drawn questions: (Q,) -> (B + 1,)."""
        return self.weights @ per_question

    def ratio(self, numerator: Array, denominator: Array) -> Array:
        """Ratio of two sums over the same drawn questions: (Q,), (Q,) -> (B + 1,); NaN where nothing was counted."""
        return divide(self.total(numerator), self.total(denominator))


def divide(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def interval(sample: Array) -> Interval:
    """Estimate and interval of a sample (B + 1,)."""
    value, resampled = float(sample[0]), sample[1:][np.isfinite(sample[1:])]
    if not np.isfinite(value):
        return Interval(None)
    if len(resampled) == 0:
        return Interval(value)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def survival(accepted: list[int]) -> list[float]:
    """S_i, the share of rounds that accepted at least i tokens, for i = 1 .. the most; their sum is tau."""
    return [sum(a >= i for a in accepted) / len(accepted) for i in range(1, max(accepted, default=0) + 1)]
