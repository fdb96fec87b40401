"""Profiles of real models: counts are those of the rounds, nothing measured is measured again, plans follow."""

from itertools import pairwise

import pytest

from eagle import hierarchy
from eagle.hierarchy.profiles import Profile
from eagle.hierarchy.renewal import Level
from eagle.levels import profiling
from eagle.levels.pair_counts import Point, bytes_of, cache_bytes, medians, rising, summarise
from eagle.levels.profiling import ProfileOptions, Prompt, pairs_of, profile
from eagle.levels.rounds import PLAIN, Measured, Pair, Seen
from tests.levels.family import family

CANDIDATES = family()
PROMPTS = [Prompt(f"p{i}", tuple(range(5 * i, 5 * i + 9))) for i in range(3)]
OPTIONS = ProfileOptions(windows=(2, 4), answer_tokens=12, num_cuts=2, num_tokens=8)


def test_every_pair_that_may_stand_on_each_other_is_measured():
    assert set(pairs_of(CANDIDATES)) == {
        *(Pair("small", name) for name in ("small.head@4", "small.head+lookup@4")),
        *(Pair("target", f"target.head{beside}@{nodes}") for beside in ("", "+lookup") for nodes in (4, 6)),
        Pair("small", "lookup"),
        Pair("target", "lookup"),
        Pair("target", "small"),
    }


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_profile_of_real_models_can_be_planned_and_run(temperature, tmp_path):
    options = ProfileOptions(**{**vars(OPTIONS), "temperature": temperature})
    made = profile(CANDIDATES.target, CANDIDATES, PROMPTS, options, tmp_path)
    assert [model.name for model in made.models] == ["small", "target"]
    assert {one.name for one in made.proposers} == {one.source for one in pairs_of(CANDIDATES)} - {"small"}
    assert made.target.weight_bytes == bytes_of(CANDIDATES.target.model) and made.target.token_ms > 0
    assert made.target.cache_bytes == cache_bytes(CANDIDATES.target) == 8 * 2 * (2 * 8) * 4  # layers, k and v, numbers
    for one in made.acceptances:
        assert all(a >= b for row in one.offered for a, b in pairwise(row)), "longer windows hold the shorter ones"
        assert sum(row[0] for row in one.offered) >= len(PROMPTS) * OPTIONS.num_cuts
    made.write(tmp_path / "profile.json")
    plan = hierarchy.plan(Profile.read(tmp_path / "profile.json"))
    drafter = plan.drafter(CANDIDATES)
    assert drafter.num_known == 0 and plan.ms_per_token <= plan.plain_ms


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    first = profile(CANDIDATES.target, CANDIDATES, PROMPTS[:2], OPTIONS, tmp_path)
    asked = []
    rounds = profiling._Bench._rounds
    monkeypatch.setattr(profiling._Bench, "_rounds", lambda self, *a: asked.append(a[0]) or rounds(self, *a))
    again = profile(CANDIDATES.target, CANDIDATES, PROMPTS[:2], OPTIONS, tmp_path)
    assert not asked and again == first
    profile(CANDIDATES.target, CANDIDATES, PROMPTS, OPTIONS, tmp_path)
    assert len(asked) == OPTIONS.num_cuts * (len(pairs_of(CANDIDATES)) + 2)  # of the new prompt, two models plainly
    with pytest.raises(ValueError, match="choose another --output"):
        profile(CANDIDATES.target, CANDIDATES, PROMPTS, ProfileOptions(windows=(3,)), tmp_path)


def test_the_first_passes_of_a_pair_are_made_and_not_counted(monkeypatch):
    """They allocate: a pair decodes once more than it is asked to, to the end."""
    bench, pair = profiling._Bench(CANDIDATES, OPTIONS), Pair("target", "target.head@4")
    ended = []

    def decoded(self, pair, ids, window):
        yield Seen(window, 0, 3, 1.0, 1.0)
        ended.append((pair, window))

    monkeypatch.setattr(profiling._Bench, "_decode", decoded)
    assert [len(bench._rounds(pair, PROMPTS[0].ids, turn)) for turn in (1, 1)] == [1, 1]
    assert ended == [(pair, min(OPTIONS.windows)), (pair, OPTIONS.windows[1]), (pair, OPTIONS.windows[1])]


def test_counts_are_those_of_the_rounds():
    """Two windows of 3 with 2 and 0 kept, one of 1 with 1 kept, in two prompts; the plain passes give the token."""
    head = Pair("target", "target.head@4")
    rows = [Measured(Pair(name, PLAIN), "a", 0, (Seen(0, 0, 0, 0.0, 5.0),)) for name in ("small", "target")]
    rows += [
        Measured(head, "a", 0, (Seen(3, 2, 4, 1.0, 7.0), Seen(1, 1, 4, 0.5, 7.5))),
        Measured(head, "b", 0, (Seen(3, 0, 4, 1.2, 6.5),)),
        *(Measured(Pair(r, s), "a", 0, (Seen(2, 1, 2, 1.0, 6.0),)) for r, s in pairs_of(CANDIDATES) if (r, s) != head),
    ]
    made = summarise(rows, CANDIDATES, ["a", "b", "c"], {})
    (own,) = [one for one in made.acceptances if one.source == "target.head@4"]
    assert own.offered == ((2, 1, 1), (1, 1, 1), (0, 0, 0)) and own.accepted == ((2, 1, 0), (0, 0, 0), (0, 0, 0))
    assert made.target.token_ms == 5.0 and made.target.pass_ms.at(0) == 5.0
    estimate = hierarchy.evaluate((Level("target.head@4", 1),), made)
    assert estimate.tokens_per_pass == pytest.approx(1 + 2 / 3)  # 2 of 3 windows had their first token kept


def test_times_are_medians_of_enough_rounds():
    points = [(1, 2.0)] * 3 + [(2, 3.0)] * 3 + [(4, 9.0), (4, 5.0), (4, 5.0), (4, 5.0), (4, 100.0)] + [(7, 8.0)]
    # six rounds of 1 and 2 tokens together; the last one in any case
    assert medians(points) == [(2, 2.5, 6), (4, 5.0, 5), (7, 8.0, 1)]


def test_one_slow_point_does_not_lift_all_behind_it():
    curve = rising([Point(1, 5.0, 20), Point(2, 30.0, 1), Point(3, 6.0, 24), Point(4, 9.0, 20)])
    assert curve.ms == (5.0, pytest.approx(6.96), pytest.approx(6.96), 9.0)  # (30 + 24 * 6) / 25


def test_what_cannot_be_profiled_is_refused():
    with pytest.raises(ValueError, match="give at least one prompt"):
        profile(CANDIDATES.target, CANDIDATES, [])
    with pytest.raises(ValueError, match="loaded for another target"):
        profile(family().target, CANDIDATES, PROMPTS)
    with pytest.raises(ValueError, match="was never measured: its context"):
        long = [Prompt("long", tuple(range(250)) * 2)]
        profile(CANDIDATES.target, CANDIDATES, long, OPTIONS)
