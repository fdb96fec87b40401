"""A plan while it runs: it writes the target's text, also across a fallback, which happens between two rounds."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.level import LevelDrafter
from eagle.hierarchy.plans import BreakEven, Choice, Plan
from eagle.hierarchy.profiles import Profile
from eagle.hierarchy.renewal import Level
from eagle.hierarchy.watch import Watch
from eagle.levels.chosen import ChosenLevels, check_same_target, choose_levels
from eagle.levels.opening import NO_HEAD, Opening, described, open_again
from eagle.levels.planned import PlannedDrafter, level_report
from eagle.levels.profiling import ProfileOptions, Prompt, profile
from eagle.options import parse
from eagle.sampling import Sampling, seeded
from evaluation.hierarchy.profile_command import ProfileConfig
from tests.drafters.tables import TableDrafter, TableModel, plain_law, text_law, total_variation
from tests.levels.family import family, saved
from tests.levels.test_building import double
from tests.tiny import tokens_of

IDS = [5, 9, 70, 5, 9, 70, 5, 9]
STACK = (Level("small.head@4", 3), Level("small", 4))
GREEDY = DecodeOptions(Sampling(), 60, ignore_end=True)
COUPLED = DecodeOptions(Sampling(1.0), 60, "coupled", ignore_end=True)


def planned(fallback: tuple[Level, ...], levels: tuple[Level, ...] = STACK) -> Plan:
    """Acceptances nobody reaches, below whose break-even `fallback` is the better choice."""
    names = [level.name for level in levels] + ["target"]
    high, even = (0.99,) * 4, (0.97,) * 4
    breaks = tuple(
        BreakEven(reader, source, high, 0.99, even, 0.97, Choice(fallback, 2.0)) for source, reader in pairwise(names)
    )
    return Plan("target", levels, 1.0, 3.0, (1.0,) * len(levels), 5.0, break_evens=breaks)


@pytest.mark.parametrize(
    "fallback", [(), (Level("lookup", 4),), (Level("target.head@6", 5),), (Level("small", 2),)], ids=str
)
@pytest.mark.parametrize("options", [GREEDY, COUPLED], ids=["greedy", "coupled"])
def test_a_fallback_happens_once_is_told_and_changes_no_token(fallback, options):
    candidates, notices = double(family()), []
    drafter = PlannedDrafter(planned(fallback), candidates, told=notices.append)
    session = Session(candidates.target, drafter)
    text = tokens_of(session.decode(IDS, options, seeded(3)))
    assert text == tokens_of(autoregressive(candidates.target, IDS, options, seeded(3)))
    assert len(notices) == 1 and "below the break-even of 0.97" in notices[0]
    assert drafter.plan.levels == fallback
    again = tokens_of(session.decode([*IDS, *text[:9], 3], options, seeded(4)))
    assert again == tokens_of(autoregressive(candidates.target, [*IDS, *text[:9], 3], options, seeded(4)))


def test_the_head_of_the_target_drafts_behind_a_fallback():
    """It was told the features of the whole text: it proposes trees at once."""
    candidates = family()
    drafter = PlannedDrafter(planned((Level("target.head@6", 5),)), candidates)
    steps = list(Session(candidates.target, drafter).decode(IDS, GREEDY))
    assert drafter.plan.levels == (Level("target.head@6", 5),)
    assert steps[-2].round is not None and steps[-2].round.tree.num_nodes > 2


def test_a_plan_that_is_measured_never_falls_back():
    plan, candidates = planned(()), family()
    chosen = ChosenLevels(candidates, STACK, plan)
    for _ in range(2):
        drafter = chosen.measured()
        tokens_of(Session(candidates.target, drafter).decode(IDS, GREEDY))
        assert isinstance(drafter, PlannedDrafter) and drafter.plan == plan
    assert chosen.watch is not None and chosen.watch.fallback() is not None
    assert min(one.rounds for one in chosen.watch.compared()) > 10  # of both answers
    assert any("acceptance a token" in line for line in level_report(drafter))


def at_once(watch: Watch):
    """The fallback of the highest pair, once it has seen two windows."""
    pair = watch._pairs.get(("target", "small"))
    return watch._told(pair) if pair is not None and pair.rounds > 1 else None


def test_a_fallback_in_the_middle_of_an_answer_keeps_its_law(monkeypatch):
    """Every random choice listed: after the first window a simpler hierarchy goes on."""

    def drafter_of(_candidates, levels, count):
        if len(levels) == 1:
            return TableDrafter(TableModel(98), 1)
        level = LevelDrafter(TableModel(1), TableDrafter(TableModel(99), 2), 2)
        observe = level.observe

        def counted(tokens, features=None):
            count("target", "small", 2, 0)
            observe(tokens, features)

        monkeypatch.setattr(level, "observe", counted)
        return level

    simpler = planned((Level("target.head@6", 5),))  # its features are kept from the start
    told = []
    monkeypatch.setattr("eagle.levels.planned.drafter_of", drafter_of)
    monkeypatch.setattr(Watch, "fallback", at_once)

    def build():
        target: Any = TableModel(0)
        return target, PlannedDrafter(simpler, replace(family(), target=target), told=told.append)

    sampling = Sampling(1.0, top_p=0.8)
    found = text_law(build, [0, 1, 2], 5, sampling, "hsd", monkeypatch)
    law = plain_law(TableModel(0), [0, 1, 2], 5, sampling)
    assert total_variation(found, law) < 1e-12  # sums of a few thousand products of float64 numbers
    assert told


def test_what_is_fallen_back_to_is_watched_with_the_profile_at_hand():
    candidates = family()
    prompts = [Prompt("p", tuple(IDS))]
    made: Profile = profile(
        candidates.target,
        candidates,
        prompts,
        ProfileOptions(windows=(2, 4), answer_tokens=8, num_cuts=1, num_tokens=8),
    )
    drafter = PlannedDrafter(planned((Level("small", 2),)), candidates, made)
    tokens_of(Session(candidates.target, drafter).decode(IDS, GREEDY))
    assert drafter.plan.levels == (Level("small", 2),)
    assert [(one.reader, one.source) for one in drafter.compared()] == [("target", "small")]


def test_plans_are_opened_again_from_what_they_say(tmp_path):
    paths = saved(tmp_path)
    opening = Opening(paths["target"], paths["head"], torch.float32, "cpu")
    texts = (f"small={paths['small']}:head={paths['small_head']},nodes=4",)
    candidates = choose_levels(None, texts, opening).candidates
    plan = replace(planned(()), provenance=described(opening, candidates))
    plan.write(tmp_path / "plan.json")
    chosen = choose_levels(tmp_path / "plan.json", (), Opening(paths["target"]))
    assert chosen.told == "target <- small (4) <- small.head@4 (3)" and chosen.profile is None
    assert chosen.candidates.head is not None and chosen.candidates.member("small").nodes == (4,)
    assert plan.drafter().num_known == 0
    text = tokens_of(Session(candidates.target, chosen.drafter(lambda _: None)).decode(IDS, GREEDY))
    assert text == tokens_of(autoregressive(candidates.target, IDS, GREEDY))


def test_the_packaged_target_can_go_without_its_head():
    """The word comes through the flags as it is: "none" would stand for no word at all, and so for the shipped head."""
    config = parse(ProfileConfig, "", ["--head", NO_HEAD])
    assert config.head == NO_HEAD and not Opening(head=config.head).has_head
    assert Opening().has_head and Opening("target", "head").has_head and not Opening("target").has_head


def test_what_does_not_go_together_is_refused(tmp_path):
    planned(()).write(tmp_path / "plan.json")
    with pytest.raises(ValueError, match="leave one of them out"):
        choose_levels(tmp_path / "plan.json", ("lookup",), Opening())
    with pytest.raises(ValueError, match="does not say which target"):
        open_again(planned(()))
    with pytest.raises(ValueError, match="--target is 'other', the plan is for big: leave it out"):
        check_same_target(replace(planned(()), provenance={"target": "big"}), "other")
    with pytest.raises(ValueError, match="best single draft is a plan's"):
        _ = ChosenLevels(family(), STACK).single
