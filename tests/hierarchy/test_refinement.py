"""The ranked choices against brute force under the exact evaluation."""

from dataclasses import replace

import pytest

from eagle.hierarchy.profiles import Profile
from eagle.hierarchy.refinement import ranked
from eagle.hierarchy.renewal import Level, Renewal
from eagle.hierarchy.shortest_path import gsp
from tests.hierarchy.test_renewal import dearer_profiles
from tests.hierarchy.toy import MAX_BUFFER, all_hierarchies, random_profile


@pytest.mark.parametrize("seed", range(12))
def test_the_choice_is_within_two_percent_of_the_best(seed):
    profile = random_profile(seed)
    exact = Renewal(profile)
    best = min(exact.evaluate(levels).ms_per_token for levels in all_hierarchies(profile))
    found = ranked(profile, MAX_BUFFER)[0]
    assert best - 1e-12 <= found.ms <= 1.02 * best
    assert found.ms <= exact.evaluate(gsp(profile, MAX_BUFFER).levels).ms_per_token


@pytest.mark.parametrize("seed", range(4))
def test_one_more_candidate_never_hurts(seed):
    profile = random_profile(seed, num_models=5, num_proposers=1)
    best = ranked(profile, MAX_BUFFER)[0].ms
    for name in [one.name for one in profile.models[:-1]] + [one.name for one in profile.proposers]:
        assert best <= ranked(without(profile, name), MAX_BUFFER)[0].ms


def without(profile: Profile, name: str) -> Profile:
    return replace(
        profile,
        models=tuple(one for one in profile.models if one.name != name),
        proposers=tuple(one for one in profile.proposers if one.name != name),
        acceptances=tuple(one for one in profile.acceptances if name not in (one.reader, one.source)),
    )


@pytest.mark.parametrize("seed", range(6))
def test_plain_decoding_and_the_best_of_every_single_draft_are_ranked(seed):
    profile = random_profile(seed, num_proposers=1)
    found = {one.levels: one.ms for one in ranked(profile, MAX_BUFFER)}
    assert found[()] == profile.target.token_ms
    exact = Renewal(profile)
    for source in ("p0", "m0", "m1", "m2"):
        singles = [(Level(source, n),) for n in range(1, MAX_BUFFER + 1)]
        best = min(exact.evaluate(levels).ms_per_token for levels in singles)
        assert min(ms for levels, ms in found.items() if levels in singles) == pytest.approx(best, rel=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_the_choices_latency_falls_with_every_acceptance_and_rises_with_every_cost(seed):
    profile = random_profile(seed)
    before = ranked(profile, MAX_BUFFER)[0].ms
    for pair in profile.survivals:
        assert ranked(profile.shifted(pair, 0.05), MAX_BUFFER)[0].ms <= before * (1 + 1e-8)
    for dearer in dearer_profiles(profile):
        assert ranked(dearer, MAX_BUFFER)[0].ms >= before * (1 - 1e-8)


def test_single_drafts_are_ranked_however_many_sequences_are_better():
    """Only the best sequences are refined where there are many; singles must not fall out of them."""
    profile = random_profile(2, num_models=8, num_proposers=2)
    found = {one.levels[0].name for one in ranked(profile, 3) if len(one.levels) == 1}
    assert found == {"p0", "p1", *(f"m{i}" for i in range(7))}
