"""The law of the field as it is implemented, finite words and groups included: trap (d) of finite precision.

Every check blames a right build once in a million runs, where its docstring says nothing else; keys are fixed, so a
build that passes passes always. `tests/slow_noise.py` gives the numbers where a million positions are asked for:
`test_noise.py` shows that it is the same field.

Run once beside this file, because they take minutes: CANDIDATES at 10,000,000 positions of two keys, p-values 0.51 and
0.19; 60,000 winners of "usual" and "flat" laws over 49,152 and 128,256 tokens, twelve p-values from 0.10 to 0.95.
"""

import math

import numpy as np
import pytest
import torch

from eagle.noise import GROUP, NoiseField
from eagle.sampling import Sampling, seeded
from tests import slow_noise
from tests.counts import (
    ONE_IN_A_MILLION,
    ONE_IN_A_MILLION_EITHER_SIDE,
    chi_square,
    chi_square_quantile,
)

NUM_CELLS = 200  # of tokens that stand together
DKW = math.sqrt(math.log(2 / 1e-6) / 2)  # sup |F_n - F| * sqrt(n) exceeds it once in a million (Massart 1990)
CANDIDATES = [0, 1, 2, 3, 17, 62, 63, 64, 65, 4_000, 49_151, 70_001, 128_192, 128_255]  # the first seven in one group


def law_of(kind: str, size: int) -> torch.Tensor:
    """Scores (V,) in float32 whose softmax is a law like those of models: nearly certain, usual, or flat."""
    tail = torch.randn(size, generator=seeded(size))
    heads = torch.randperm(size, generator=seeded(1))[:50]
    usual = (2 * tail).index_add(0, heads, torch.linspace(14, 7, 50))
    return {"peaked": usual.index_add(0, heads[:1], torch.tensor([3.0])), "usual": usual, "flat": 0.5 * tail}[kind]


def cells_of(law: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """A cell number for every token (V,): neighbours in the order of `by`, of about equal mass."""
    order = by.argsort(stable=True)
    cells = torch.empty_like(order)
    cells[order] = (law[order].cumsum(0) * NUM_CELLS).long().clamp(max=NUM_CELLS - 1)
    return cells


@pytest.mark.parametrize("kind", ["peaked", "usual", "flat"])
@pytest.mark.parametrize("size", [49_152, 128_256])
def test_winners_follow_the_targets_law(size, kind):
    """Chi-square of the same winners in three poolings: by probability (the tail together), by id, by place in a group.

    Each blames a right build once in a million runs, about.
    """
    scores, field, draws = law_of(kind, size), NoiseField(size), 2_500
    law = scores.double().softmax(-1)
    winners = torch.tensor([int(field.best(scores, position)) for position in range(draws)])
    ids = torch.arange(size)
    for cells in (cells_of(law, -law), cells_of(law, ids), ids % GROUP):
        observed, expected = torch.bincount(cells[winners], minlength=NUM_CELLS), torch.zeros(NUM_CELLS).double()
        expected.index_add_(0, cells, law)
        statistic, degrees = chi_square(observed.double(), draws * expected)
        assert degrees >= 5
        assert statistic < chi_square_quantile(degrees, ONE_IN_A_MILLION)


@pytest.mark.parametrize("sampling", [Sampling(0.6, top_k=5), Sampling(1.0, top_p=0.8), Sampling(2.0)])
def test_winners_follow_the_law_of_a_sampling(sampling):
    """Temperature, top-k and top-p of the target are part of the law, and the scores that carry the noise have it."""
    logits, draws = 2 * torch.randn(40, generator=seeded(2)), 2_500
    law, field = sampling.law(logits).double(), NoiseField(1)
    scores = sampling.scores(logits)
    winners = torch.tensor([int(field.best(scores, position)) for position in range(draws)])
    assert law[winners].min() > 0
    statistic, degrees = chi_square(torch.bincount(winners, minlength=40).double(), draws * law)
    assert statistic < chi_square_quantile(degrees, ONE_IN_A_MILLION)


def candidate_counts(positions: range, law: torch.Tensor, key: int = 1) -> torch.Tensor:
    """How often each of CANDIDATES wins, all other tokens being ruled out."""
    counts = np.zeros(len(CANDIDATES), dtype=np.int64)
    for start in range(positions.start, positions.stop, 50_000):
        some = np.arange(start, min(start + 50_000, positions.stop))
        found = slow_noise.winners(key, some, CANDIDATES, law.log().numpy())
        counts += np.bincount(found, minlength=len(CANDIDATES))
    return torch.from_numpy(counts).double()


def candidate_law(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """From about one half down to 1e-5, in an order in which neighbours differ."""
    law = torch.logspace(0, -5, len(CANDIDATES), dtype=dtype)[torch.randperm(len(CANDIDATES), generator=seeded(3))]
    return law / law.sum()


def test_a_million_winners_among_tokens_of_large_and_small_probability():
    law, draws = candidate_law(), 1_000_000
    statistic, degrees = chi_square(candidate_counts(range(draws), law), draws * law)
    assert degrees >= len(CANDIDATES) - 3  # what is rarer than 5 in a million is pooled
    assert statistic < chi_square_quantile(degrees, ONE_IN_A_MILLION)


def test_the_candidates_winners_are_the_fields_own():
    scores = torch.full((128_256,), -torch.inf).double()
    scores[CANDIDATES] = candidate_law().log()
    field = NoiseField(1)
    expected = slow_noise.winners(1, np.arange(100), CANDIDATES, candidate_law().log().numpy())
    assert [CANDIDATES.index(int(field.best(scores, position))) for position in range(100)] == expected.tolist()


def test_the_check_would_notice_a_law_that_is_off_by_two_percent():
    """The negative control: the same counts against a law in which the likeliest token has a fiftieth more."""
    law, draws = candidate_law(), 1_000_000
    off = law.index_fill(0, law.argmax(), float(law.max()) * 1.02)
    statistic, degrees = chi_square(candidate_counts(range(draws), law), draws * off / off.sum())
    assert statistic > chi_square_quantile(degrees, ONE_IN_A_MILLION)


def distance_from_uniform(values: np.ndarray) -> float:
    """Kolmogorov and Smirnov's, times sqrt(n)."""
    values, steps = np.sort(values), np.arange(len(values) + 1) / len(values)
    return float(max((steps[1:] - values).max(), (values - steps[:-1]).max()) * len(values) ** 0.5)


@pytest.mark.parametrize("tokens", [range(49_152), range(5, 200_000, GROUP)], ids=["all", "one place"])
def test_every_number_is_exponential(tokens):
    """The marginal law of E over positions and tokens: whether a token is the first of its group leaves no trace."""
    asked, field = torch.tensor(tokens), NoiseField(2)
    rows = torch.stack([field.at(position, asked) for position in range(200_000 // len(asked) + 1)])
    assert distance_from_uniform(-np.expm1(-np.exp(-rows.numpy().ravel()))) < DKW


def test_the_least_of_a_group_and_its_place_are_independent_and_right():
    """64 times the least is exponential, the place uniform, and neither tells anything of the other."""
    races = slow_noise.races(3, np.arange(4_000), np.arange(GROUP))
    least, places = GROUP * races.min(-1), races.argmin(-1)
    assert distance_from_uniform(-np.expm1(-least)) < DKW
    halves = torch.from_numpy(places + GROUP * (least > math.log(2))).bincount(minlength=2 * GROUP).double()
    statistic, degrees = chi_square(halves, torch.full_like(halves, 4_000 / len(halves)))
    assert statistic < chi_square_quantile(degrees, ONE_IN_A_MILLION)


@pytest.mark.parametrize("below", [None, 0.1], ids=["numbers", "small ones"])
def test_the_tokens_of_a_group_are_independent(below):
    """All pairs of 64 tokens at once: n times the sum of their squared correlations is chi-square with 2016 degrees.

    Built of a first one and waits, they could hang together, above all where the numbers are small.
    """
    positions = 20_000
    uniform = -np.expm1(-slow_noise.races(4, np.arange(positions), np.arange(64, 128)))  # (P, W)
    values = uniform if below is None else (uniform < below).astype(np.float64)
    pairs = np.corrcoef(values.T)[np.triu_indices(GROUP, 1)]
    quantile = chi_square_quantile(len(pairs), ONE_IN_A_MILLION)
    assert positions * (pairs**2).sum() < quantile
    assert positions * (pairs**2).sum() > len(pairs) - (quantile - len(pairs))  # nor more alike than by chance


NEIGHBOURS = {
    "next position": (0, 1, 0),
    "position 64 on": (0, 64, 0),
    "next key": (1, 0, 0),
    "key 2^40 on": (1 << 40, 0, 0),
    "key and position": (1, 1, 0),
    "next token": (0, 0, 1),
    "next group": (0, 0, GROUP),
    "next token at the position before": (0, -1, 1),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_neighbours_do_not_hang_together(name):
    """The correlation of 500,000 pairs, of the numbers and of which ones are small: once in a million each."""
    key, position, token = NEIGHBOURS[name]
    tokens, positions = torch.arange(50_000), range(100, 110)
    one = torch.stack([NoiseField(6).at(p, tokens) for p in positions])
    other = torch.stack([NoiseField(6 + key).at(p + position, tokens + token) for p in positions])
    for values in (lambda g: -(-(-g).exp()).expm1(), lambda g: (g > 2.3).double()):
        pair = torch.stack([values(one).flatten(), values(other).flatten()])
        assert abs(float(pair.corrcoef()[0, 1])) * pair.shape[1] ** 0.5 < ONE_IN_A_MILLION_EITHER_SIDE
