"""Drafters built from names: what they write is the target's text, and every window is counted as it was kept."""

import pytest
import torch

from eagle.chance import Chance
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.counted import CountedDrafter
from eagle.drafters.level import LevelDrafter
from eagle.drafters.lookup import LookupDrafter
from eagle.drafters.none import NoDrafter
from eagle.hierarchy.renewal import Level
from eagle.levels.building import build_drafter, levels_of
from eagle.sampling import Sampling, seeded
from tests.drafters.tables import TableModel, plain_law, text_law, total_variation
from tests.levels.family import family
from tests.tiny import tokens_of

CANDIDATES = family()
IDS = [5, 9, 70, 5, 9, 70, 5, 9]
GREEDY = DecodeOptions(Sampling(), 32, ignore_end=True)
STACKS = [
    (Level("target.head@6", 5),),
    (Level("target.head+lookup@6", 5),),
    (Level("lookup", 4),),
    (Level("small", 3),),
    (Level("small.head@4", 3), Level("small", 4)),
    (Level("lookup", 4), Level("small", 4)),
]


def double(candidates):
    for name in candidates.readers():
        candidates.model(name).model.double()
        candidates.head_of(name).double()
    return candidates


@pytest.mark.parametrize("levels", STACKS, ids=str)
@pytest.mark.parametrize("options", [GREEDY, DecodeOptions(Sampling(1.0), 32, "coupled", ignore_end=True)])
def test_settled_texts_are_plain_decodings(levels, options):
    candidates = double(family())
    drafter = build_drafter(candidates, levels)
    text = tokens_of(Session(candidates.target, drafter).decode(IDS, options, seeded(3)))
    assert text == tokens_of(autoregressive(candidates.target, IDS, options, seeded(3)))


@pytest.mark.parametrize("levels", STACKS, ids=str)
def test_every_window_is_heard_of_with_what_was_kept(levels):
    """The numbers of the highest pair are those of the steps; windows are as long as asked for, or as a level has."""
    heard = []

    def told(reader, source):
        return lambda window, kept: heard.append((reader, source, window, kept))

    drafter = build_drafter(CANDIDATES, levels, told)
    options = DecodeOptions(Sampling(1.0), 40, "hsd", ignore_end=True)
    steps = list(Session(CANDIDATES.target, drafter).decode(IDS, options, seeded(0)))[1:]
    top = [(window, kept) for reader, source, window, kept in heard if reader == "target"]
    assert {source for reader, source, *_ in heard if reader == "target"} == {levels[-1].name}
    rounds = [step for step in steps if step.round is not None and (len(levels) == 1 or step.round.tree.num_nodes > 1)]
    assert [kept for _, kept in top][:-1] == [step.num_accepted for step in rounds][: len(top) - 1]
    depth = levels[-1].buffer
    inside = top[:-6]  # the last ones end with the answer
    assert all(
        window >= depth if len(levels) > 1 or levels[0].name == "small" else window == depth for window, _ in inside
    )
    assert all(kept <= window for *_, window, kept in heard)
    if len(levels) > 1:
        assert any(reader == "small" and source == levels[0].name for reader, source, *_ in heard)


def test_an_end_of_text_that_is_kept_ends_the_window():
    heard = []
    drafter = CountedDrafter(LookupDrafter(6, 2, 1), lambda *seen: heard.append(seen), 6, frozenset({7}))
    drafter.observe(torch.tensor([1, 2, 7, 3, 1]))
    assert drafter.propose(Chance(Sampling()), 9).token_list[:4] == (1, 2, 7, 3)
    drafter.observe(torch.tensor([2, 7, 3, 9]))
    assert heard == [(2, 2)]


def test_what_cannot_stand_there_is_refused():
    with pytest.raises(ValueError, match="plain decoding"):
        build_drafter(CANDIDATES, ())
    with pytest.raises(ValueError, match="no level is called 'medium': there are small"):
        build_drafter(CANDIDATES, (Level("medium", 3),))
    with pytest.raises(ValueError, match="the head of small drafts for small alone"):
        build_drafter(CANDIDATES, (Level("small.head@4", 3),))
    with pytest.raises(ValueError, match="lookup stands above another level"):
        build_drafter(CANDIDATES, (Level("small", 3), Level("lookup", 3)))


def test_levels_are_found_from_the_top():
    drafter = build_drafter(CANDIDATES, (Level("small.head@4", 3), Level("small", 4)))
    (level,) = levels_of(drafter)
    assert isinstance(level, LevelDrafter) and level.name == "small" and level.buffer == 4


def test_a_model_alone_at_the_bottom_has_the_targets_law(monkeypatch):
    """Its own tokens one by one, handed up with their laws: every random choice listed."""

    def build():
        return TableModel(0), LevelDrafter(TableModel(1), NoDrafter(), 2)

    sampling = Sampling(1.0, top_p=0.8)
    found = text_law(build, [0, 1, 2], 4, sampling, "hsd", monkeypatch)
    assert total_variation(found, plain_law(TableModel(0), [0, 1, 2], 4, sampling)) < 1e-12  # sums of float64 products
