"""The recursion against brute force over all hierarchies, with the reduction's objective written down anew."""

import random
from functools import cache

import pytest

from eagle.hierarchy.curves import Survival
from eagle.hierarchy.profiles import Profile
from eagle.hierarchy.renewal import Hierarchy, Level
from eagle.hierarchy.shortest_path import best_routes, gsp
from tests.hierarchy.test_renewal import dearer_profiles
from tests.hierarchy.toy import MAX_BUFFER, all_hierarchies, random_profile


@cache
def expected_rounds(survival: Survival, window: int, buffer: int) -> float:
    """First-step analysis: m(t) = 1 + sum over accepted a of Pr(a) m(t - a - 1)."""
    reached = [*(survival.at(a) for a in range(window + 1)), 0.0]

    @cache
    def more(missing: int) -> float:
        if missing <= 0:
            return 0.0
        return 1 + sum((reached[a] - reached[a + 1]) * more(missing - a - 1) for a in range(window + 1))

    return more(buffer)


def reduced_ms(profile: Profile, levels: Hierarchy) -> float:
    """Latency a token, if every level handed up exactly its buffer: costs times the multipliers before them."""
    if not levels:
        return profile.target.token_ms
    top, target = levels[-1], profile.target.name
    multiplier = 1 / (1 + profile.survival(target, top.name).accepted(top.buffer))
    ms = multiplier * profile.pass_ms(target, top.name, top.buffer)
    for reader, source in zip(levels[:0:-1], levels[-2::-1], strict=True):
        survival = profile.survival(reader.name, source.name)
        multiplier *= expected_rounds(survival, source.buffer, reader.buffer)
        ms += multiplier * profile.pass_ms(reader.name, source.name, source.buffer)
    return ms + multiplier * profile.draft_ms(levels[0].name, levels[0].buffer)


@pytest.mark.parametrize("seed", range(8))
def test_the_shortest_path_is_the_best_of_all_hierarchies(seed):
    profile = random_profile(seed, num_proposers=seed % 2)
    found = gsp(profile, MAX_BUFFER)
    costs = [reduced_ms(profile, levels) for levels in all_hierarchies(profile)]
    assert found.ms == pytest.approx(min(costs), rel=1e-12, abs=1e-12)
    assert reduced_ms(profile, found.levels) == pytest.approx(found.ms, rel=1e-12, abs=1e-12)


def test_every_sequence_of_candidates_has_its_best_buffers():
    profile = random_profile(5, num_proposers=1)
    costs: dict[tuple[str, ...], float] = {}
    for levels in all_hierarchies(profile):
        names = tuple(level.name for level in levels)
        costs[names] = min(costs.get(names, 1e9), reduced_ms(profile, levels))
    routes = best_routes(profile, MAX_BUFFER, most=100)
    assert {route.names: route.ms for route in routes} == pytest.approx(costs, rel=1e-12)
    assert [route.ms for route in routes] == sorted(route.ms for route in routes)


def test_pairs_that_are_not_known_and_windows_that_were_not_measured_are_left_out():
    profile = random_profile(1, longest=3)
    known = tuple(one for one in profile.acceptances if one.source == "m1")
    partial = Profile(profile.models, known)
    for route in best_routes(partial, MAX_BUFFER, most=100):
        assert route.names in {(), ("m1",), ("m1", "m2")[:1]}
        assert all(level.buffer <= 3 for level in route.levels)


@pytest.mark.parametrize("seed", range(5))
def test_the_reduced_latency_falls_with_every_acceptance_and_rises_with_every_cost(seed):
    profile = random_profile(seed, num_proposers=1)
    before = gsp(profile, MAX_BUFFER).ms
    for pair, survival in profile.survivals.items():
        better = profile.with_curves({pair: raised(survival, seed)})
        assert gsp(better, MAX_BUFFER).ms <= before + 1e-12
    for dearer in dearer_profiles(profile):
        assert gsp(dearer, MAX_BUFFER).ms >= before - 1e-12


def raised(survival: Survival, seed: int) -> Survival:
    """One value of the curve is higher, as far as its left neighbour allows; nothing else changes."""
    place = random.Random(seed).randrange(len(survival.reached))
    left = survival.at(place)
    return Survival((*survival.reached[:place], left, *survival.reached[place + 1 :]))


def test_without_candidates_there_is_plain_decoding():
    alone = random_profile(0, num_models=1)
    assert gsp(alone, MAX_BUFFER).levels == ()
    assert gsp(alone, MAX_BUFFER).ms == alone.target.token_ms


def test_of_equal_paths_the_shortest_is_taken():
    """A draft that gains exactly nothing is not worth a model."""
    profile = random_profile(0, num_models=2).with_curves({("m1", "m0"): Survival((0.0,) * MAX_BUFFER)})
    assert gsp(profile, MAX_BUFFER).levels == ()
    assert gsp(random_profile(1), 1).levels in ((), *((Level(f"m{i}", 1),) for i in range(3)))
