"""Counts against a law: the tests of what is drawn, with the rate at which they blame a right build.

A one-sided normal quantile of 4.265 is a false alarm in 100,000, one of 4.753 in a million; of a value that may be off
to both sides, 4.892 is one in a million.
"""

import torch
from torch import Tensor

LEAST_EXPECTED = 5  # rarer cells are pooled
ONE_IN_100_000, ONE_IN_A_MILLION, ONE_IN_A_MILLION_EITHER_SIDE = 4.265, 4.753, 4.892


def chi_square(observed: Tensor, expected: Tensor) -> tuple[float, int]:
    """The statistic and its degrees of freedom, rare cells pooled into one."""
    common = expected >= LEAST_EXPECTED
    observed, expected = (torch.cat([counts[common], counts[~common].sum()[None]]) for counts in (observed, expected))
    used = expected > 0
    return ((observed - expected)[used] ** 2 / expected[used]).sum().item(), int(used.sum()) - 1


def chi_square_quantile(degrees: int, normal_quantile: float = ONE_IN_100_000) -> float:
    """Its quantile by the cube of Wilson and Hilferty: at few degrees a little above the exact one."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + normal_quantile * spread**0.5) ** 3


def sigmas(hits: int, draws: int, probability: float) -> float:
    """How many standard deviations a count of hits lies from what is expected."""
    return (hits - draws * probability) / (draws * probability * (1 - probability)) ** 0.5
