"""Intervals on numbers whose right answers are known."""

import numpy as np
import pytest

from eagle.bootstrap import Resamples, interval, survival


def test_without_variation_the_interval_is_a_point():
    resamples = Resamples(10, 200, seed=0)
    found = interval(resamples.ratio(np.full(10, 6.0), np.full(10, 3.0)))
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_the_width_is_the_known_one_of_a_mean():
    """The standard error of a mean of n numbers is sd / sqrt(n). 4,000 resamples put the bootstrap's quantiles within
    about 3 % of it; the bound of 10 % is over three standard deviations of that, and the seed is fixed."""
    numbers = np.random.default_rng(0).normal(5, 2, size=400)
    found = interval(Resamples(400, 4000, seed=1).ratio(numbers, np.ones(400)))
    assert found.value == pytest.approx(numbers.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * numbers.std() / 20, rel=0.1)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """200 samples of 60 numbers with mean 0: the number of 95 % intervals that miss is binomial. Percentile intervals
    of 60 numbers miss about 5.5 %; more than 27 misses of 200 have probability 1e-5 even at 6 %."""
    chance = np.random.default_rng(0)
    misses = 0
    for trial in range(200):
        found = interval(Resamples(60, 500, seed=trial).ratio(chance.normal(size=60), np.ones(60)))
        misses += not found.low <= 0 <= found.high
    assert 1 <= misses <= 27


def test_pairing_removes_what_two_arms_share():
    """Times vary a hundredfold between questions, and one arm takes exactly twice the other's: a paired ratio is known
    exactly, an unpaired one is not known at all."""
    times = np.random.default_rng(0).lognormal(0, 2, size=30)
    one, other = Resamples(30, 500, seed=1), Resamples(30, 500, seed=2)
    paired = interval(one.total(2 * times) / one.total(times))
    unpaired = interval(one.total(2 * times) / other.total(times))
    assert (paired.low, paired.high) == pytest.approx((2, 2))
    assert unpaired.low < 1 and unpaired.high > 3


def test_nothing_counted_gives_no_number_and_one_question_no_interval():
    nothing = interval(Resamples(5, 10, seed=0).ratio(np.zeros(5), np.zeros(5)))
    assert (nothing.value, nothing.low, nothing.high) == (None, None, None)
    alone = interval(Resamples(1, 10, seed=0).ratio(np.ones(1), np.ones(1)))
    assert (alone.value, alone.low, alone.high) == (1.0, None, None)


def test_survivals_sum_to_tau():
    accepted = [0, 3, 1, 0, 5, 2, 2]
    shares = survival(accepted)
    assert shares == [5 / 7, 4 / 7, 2 / 7, 1 / 7, 1 / 7]
    assert sum(shares) == pytest.approx(sum(accepted) / len(accepted))
    assert survival([0, 0]) == []
