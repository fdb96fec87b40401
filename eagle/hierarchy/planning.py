"""From a profile to a plan: the fastest hierarchy, how sure that is, and what would change it."""

from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from eagle.bootstrap import Resamples, interval
from eagle.hierarchy.plans import BreakEven, Change, Choice, Plan, Range
from eagle.hierarchy.profiles import Pair, Profile
from eagle.hierarchy.refinement import Candidate, ranked
from eagle.hierarchy.renewal import Estimate, Hierarchy, Renewal
from eagle.options import Limits
from eagle.typed import conform

MAX_BUFFER = 16  # tokens; a window is never planned longer than it was measured
LARGEST_BUFFER = 512  # planning takes time with its square
SHIFT = 0.02  # of acceptance: so well it must be known
STEP = 0.02  # of the search for a break-even
HALVINGS = 12  # of such a step: to 5e-6
NUM_RUNNERS_UP = 5
NUM_RESAMPLES = 400


def plan(profile: Profile, max_buffer: int = MAX_BUFFER, seed: int = 0) -> Plan:
    """The fastest hierarchy found, of equally fast ones the simplest. `seed` is that of the intervals.

    Raises ValueError for a `max_buffer` that is no whole number from 1 to `LARGEST_BUFFER`.
    """
    max_buffer = _checked(max_buffer)
    candidates = ranked(profile, max_buffer)
    return _plan(profile, candidates[0].levels, candidates, max_buffer, seed)


def plan_of(profile: Profile, levels: Hierarchy, max_buffer: int = MAX_BUFFER, seed: int = 0) -> Plan:
    """The plan of a hierarchy that was chosen by hand, or fallen back to.

    Raises ValueError for an unknown candidate, a pair without a curve, a proposer above level 0, and as `plan`.
    """
    Renewal(profile).evaluate(levels)
    max_buffer = _checked(max_buffer)
    return _plan(profile, levels, ranked(profile, max_buffer), max_buffer, seed)


def _checked(max_buffer: int) -> int:
    max_buffer = conform("max_buffer", max_buffer, int)
    Limits(at_least=1, at_most=LARGEST_BUFFER).check(max_buffer, f"max_buffer is {max_buffer}")
    return max_buffer


def _plan(profile: Profile, levels: Hierarchy, candidates: Sequence[Candidate], max_buffer: int, seed: int) -> Plan:
    estimate = Renewal(profile).evaluate(levels)
    members = [profile.target, *(profile.candidate(level.name) for level in levels)]
    ms_range, tokens_range = _ranges(profile, levels, seed)
    others = [one for one in candidates if one.levels != levels]
    return Plan(
        profile.target.name,
        levels,
        ms_per_token=estimate.ms_per_token,
        tokens_per_pass=estimate.tokens_per_pass,
        passes=estimate.passes,
        plain_ms=profile.target.token_ms,
        single=next((_choice(one) for one in candidates if len(one.levels) == 1), None),
        ms_range=ms_range,
        tokens_range=tokens_range,
        break_evens=tuple(_break_even(profile, pair, levels, others) for pair in pairs(profile, levels)),
        changes=_changes(profile, levels, max_buffer),
        runners_up=tuple(_choice(one) for one in others[:NUM_RUNNERS_UP]),
        weight_bytes=sum(one.weight_bytes for one in members),
        cache_bytes=sum(one.cache_bytes for one in members),
        provenance=profile.provenance,
    )


def pairs(profile: Profile, levels: Hierarchy) -> list[Pair]:
    """Reader and source of every verification, from the bottom."""
    names = [level.name for level in levels] + [profile.target.name]
    return list(zip(names[1:], names, strict=False))


def _choice(one: Candidate) -> Choice:
    return Choice(one.levels, one.ms)


def _ranges(profile: Profile, levels: Hierarchy, seed: int) -> tuple[Range | None, Range | None]:
    """Of ms a token and of tokens a target pass. Prompts are drawn anew, whole: their rounds resemble each other."""
    own = pairs(profile, levels)
    counted = {(one.reader, one.source) for one in profile.acceptances if one.offered}
    if len(profile.prompts) < 2 or not counted.intersection(own):
        return None, None
    weights = Resamples(len(profile.prompts), NUM_RESAMPLES, seed).weights
    estimates = [Renewal(profile.resampled(own, row.tolist())).evaluate(levels) for row in weights]
    return _range(estimates, "ms_per_token"), _range(estimates, "tokens_per_pass")


def _range(estimates: Sequence[Estimate], name: str) -> Range:
    found = interval(np.array([getattr(one, name) for one in estimates]))
    assert found.low is not None and found.high is not None  # more than one prompt, every estimate finite
    return found.low, found.high


def _break_even(profile: Profile, pair: Pair, levels: Hierarchy, others: Sequence[Candidate]) -> BreakEven:
    """The first shift downwards at which one of the simpler hierarchies is as fast; their buffers stay."""
    curve = profile.survival(*pair)
    simpler = [one.levels for one in others if len(one.levels) < len(levels)]

    def fallback(shift: float) -> Choice | None:
        """The fastest simpler one, if it is as fast as the plan."""
        renewal = Renewal(profile.shifted(pair, -shift))
        latencies = [(renewal.evaluate(one).ms_per_token, one) for one in simpler]
        ms, fastest = min(latencies, key=itemgetter(0))
        return Choice(fastest, ms) if ms <= renewal.evaluate(levels).ms_per_token else None

    steps = range(1, round(1 / STEP) + 1)
    high = next((step * STEP for step in steps if fallback(step * STEP)), None)
    if high is None:
        return BreakEven(*pair, predicted=curve.reached, alpha=curve.alpha)
    low = high - STEP
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fallback(middle) else (middle, high)
    even = curve.shifted(-high)
    return BreakEven(*pair, curve.reached, curve.alpha, even.reached, even.alpha, fallback(high))


def _changes(profile: Profile, levels: Hierarchy, max_buffer: int) -> tuple[Change, ...]:
    """Both directions for the pairs of the plan. Others can only win by more acceptance; told where they do."""
    own = pairs(profile, levels)
    both = [_change(profile, pair, shift, levels, max_buffer) for pair in own for shift in (-SHIFT, SHIFT)]
    rest = [pair for pair in profile.survivals if pair not in own]
    more = [_change(profile, pair, SHIFT, levels, max_buffer) for pair in rest]
    return (*both, *(one for one in more if one.choice.levels != levels))


def _change(profile: Profile, pair: Pair, shift: float, levels: Hierarchy, max_buffer: int) -> Change:
    shifted = profile.shifted(pair, shift)
    ms = Renewal(shifted).evaluate(levels).ms_per_token
    return Change(*pair, shift, ms, _choice(ranked(shifted, max_buffer)[0]))
