"""Predicted against measured while a plan runs: alarms where they are due, silence where they are not."""

import random

import pytest

from eagle.hierarchy.curves import Survival
from eagle.hierarchy.plans import BreakEven, Choice, Plan
from eagle.hierarchy.renewal import Level
from eagle.hierarchy.watch import Watch

WINDOW = 6
SIMPLER = Choice((Level("head", 4),), 0.5)


def plan_of(*break_evens: BreakEven) -> Plan:
    levels = tuple(Level(one.source, WINDOW) for one in break_evens)
    return Plan("large", levels, 0.4, 3.0, (1.0,) * len(levels), 1.0, break_evens=break_evens)


def pair(source: str, reader: str, even: float | None, fallback: Choice = SIMPLER) -> BreakEven:
    predicted = Survival.geometric(0.85, WINDOW).reached
    if even is None:
        return BreakEven(reader, source, predicted, 0.85)
    return BreakEven(reader, source, predicted, 0.85, Survival.geometric(even, WINDOW).reached, even, fallback)


ONE = plan_of(pair("small", "large", 0.7))


def accepted(alpha: float, window: int, draws: random.Random) -> int:
    return next((a for a in range(window) if draws.random() >= alpha), window)


def rounds_to_alarm(watch: Watch, alpha: float, seed: int, most: int) -> int | None:
    draws = random.Random(seed)
    for number in range(1, most + 1):
        watch.count("large", "small", WINDOW, accepted(alpha, WINDOW, draws))
        if watch.fallback():
            return number
    return None


def test_a_pair_far_below_break_even_is_found_in_some_dozens_of_rounds():
    delays = [rounds_to_alarm(Watch(ONE), 0.4, seed, 400) for seed in range(40)]
    assert None not in delays and sorted(delays)[20] < 60


def test_few_rounds_raise_no_alarm_however_bad_they_are():
    watch = Watch(ONE)
    for _ in range(5):
        watch.count("large", "small", WINDOW, 0)
    assert watch.fallback() is None


def test_at_break_even_false_alarms_are_as_rare_as_stated():
    """At 1e-3 a round at most 0.2 of runs of 200 rounds may raise one. Of 80 runs a right watch would have more than
    27 in fewer than 2 of 1000 seed bases; seeds are fixed."""
    alarms = sum(rounds_to_alarm(Watch(ONE, false_alarms=1e-3), 0.7, seed, 200) is not None for seed in range(80))
    assert alarms <= 27


def test_above_break_even_there_is_no_alarm_in_thousands_of_rounds():
    """Below 1e-5 a round: by chance in fewer than 1 of 16 seed bases, were the pair only as good as break-even."""
    assert all(rounds_to_alarm(Watch(ONE), 0.8, seed, 2000) is None for seed in range(3))


def test_a_pair_that_gets_worse_later_is_found_as_well():
    """A test that adds up all rounds would have to lose first what it won."""
    watch, draws = Watch(ONE), random.Random(0)
    for _ in range(2000):
        watch.count("large", "small", WINDOW, accepted(0.9, WINDOW, draws))
    assert rounds_to_alarm(watch, 0.4, 1, 150) is not None


def test_the_alarm_names_the_simpler_plan_and_why():
    watch = Watch(ONE)
    assert rounds_to_alarm(watch, 0.3, 0, 200) is not None
    found = watch.fallback()
    assert (found.choice, found.break_even_alpha) == (SIMPLER, 0.7)
    assert found.alpha < 0.5
    assert found.told("large") == (
        f"large accepts {found.alpha:.2f} a token of small, below the break-even of 0.70 "
        f"(after {found.rounds} rounds): going on with large <- head (4)"
    )


def test_of_two_alarms_the_simplest_plan_wins():
    plain = Choice((), 1.0)
    watch = Watch(plan_of(pair("head", "small", 0.7), pair("small", "large", 0.7, plain)))
    for _ in range(100):
        watch.count("small", "head", WINDOW, 0)
    assert watch.fallback().choice == SIMPLER
    for _ in range(100):
        watch.count("large", "small", WINDOW, 0)
    assert watch.fallback().choice == plain


def test_a_pair_without_break_even_raises_no_alarm():
    watch = Watch(plan_of(pair("small", "large", None)))
    for _ in range(500):
        watch.count("large", "small", WINDOW, 0)
    assert watch.fallback() is None


def test_the_running_curve_follows_the_rounds_and_forgets():
    watch = Watch(ONE, memory=10)
    (before,) = watch.compared()
    assert (before.reader, before.source, before.rounds, before.running.reached) == ("large", "small", 0, (0.0,))
    assert before.predicted.alpha == pytest.approx(0.85)
    for _ in range(100):
        watch.count("large", "small", 4, 4)
    assert running(watch) == pytest.approx((1.0,) * 4)
    for _ in range(100):
        watch.count("large", "small", 4, 2)
    assert running(watch) == pytest.approx((1, 1, 0, 0), abs=1e-3)
    watch.count("large", "small", 8, 8)
    assert len(running(watch)) == 8
    assert watch.compared()[0].rounds == 201


def running(watch: Watch) -> tuple[float, ...]:
    return watch.compared()[0].running.reached


def test_windows_of_every_length_are_judged_by_their_own_length():
    """Short windows accept few tokens; that is no loss. Break-even of a window of 1 is 0.7 tokens, of 12 is 2.3."""
    watch, draws = Watch(ONE), random.Random(3)
    for _ in range(1000):
        window = draws.choice((0, 1, 2, 12))
        watch.count("large", "small", window, accepted(0.8, window, draws))
    assert watch.fallback() is None


@pytest.mark.parametrize("counted", [("large", "oak", 1, 1), ("large", "small", 1, 2), ("large", "small", 1, -1)])
def test_counts_that_cannot_be_are_refused(counted):
    with pytest.raises(ValueError, match=r"not in the plan|were accepted"):
        Watch(ONE).count(*counted)


@pytest.mark.parametrize("options", [{"memory": 0}, {"memory": float("nan")}, {"false_alarms": 0}, {"false_alarms": 1}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match=r"memory|false_alarms"):
        Watch(ONE, **options)
