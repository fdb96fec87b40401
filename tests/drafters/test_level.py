"""A hierarchy of drafters writes the target's text: its law, every random choice listed, and greedy text by token."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from eagle.chance import Chance
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.level import LevelDrafter
from eagle.drafters.level_state import LevelState
from eagle.drafters.protocol import Drafter
from eagle.engine.target import Target
from eagle.sampling import Sampling, seeded
from eagle.trees import AutoTree
from hsd_verify import DraftTree
from tests.drafters.tables import TableDrafter, TableModel, plain_law, text_law, total_variation
from tests.tiny import random_ids, tiny_head, tiny_target, tokens_of

PROMPT = [0, 1, 2]
GREEDY = DecodeOptions(Sampling(), 24, ignore_end=True)
COUPLED = DecodeOptions(Sampling(1.0), 24, "coupled", ignore_end=True)
COUPLED_COOL = DecodeOptions(Sampling(0.4, top_p=0.9), 24, "coupled", ignore_end=True)
EXACT = 1e-12  # sums of a few thousand products of float64 numbers


def hierarchy(buffers: tuple[int, ...], length: int = 1, verifier: str = "hsd", **options):
    """A target and its drafter: a level a buffer, largest model first; the lowest draws chains of `length`."""

    def build():
        models = [TableModel(seed, **options) for seed in range(len(buffers) + 1)]
        drafter: Drafter = TableDrafter(TableModel(99), length, reads=models[-1])
        for model, buffer in zip(reversed(models[1:]), reversed(buffers), strict=True):
            drafter = LevelDrafter(model, drafter, buffer, verifier)
        return models[0], drafter

    return build


@pytest.mark.parametrize(
    ("buffers", "length", "verifier", "top_p"),
    [
        ((1,), 1, "hsd", 1.0),
        ((1, 1), 1, "hsd", 1.0),  # 6,165 branches
        ((2,), 2, "hsd", 0.8),
        ((2,), 1, "tokenwise", 0.8),
        ((2, 1), 1, "hsd", 0.8),
        ((1, 2), 1, "tokenwise", 0.8),
        ((2, 2), 1, "hsd", 0.8),
    ],
)
def test_the_text_has_the_targets_law(buffers, length, verifier, top_p, monkeypatch):
    """Five tokens through the real session: 3 and 4 levels with the lowest drafter, every random choice listed."""
    sampling, build = Sampling(1.0, top_p=top_p), hierarchy(buffers, length, verifier)
    found = text_law(build, PROMPT, 5, sampling, verifier, monkeypatch)
    assert total_variation(found, plain_law(build()[0], PROMPT, 5, sampling)) < EXACT


def test_a_text_that_ends_inside_a_buffer_has_the_targets_law(monkeypatch):
    build = hierarchy((2,), 2, end_token_ids=frozenset({1}))
    found = text_law(build, PROMPT, 5, Sampling(1.0, top_p=0.8), "hsd", monkeypatch)
    assert total_variation(found, plain_law(build()[0], PROMPT, 5, Sampling(1.0, top_p=0.8))) < EXACT


def test_a_level_may_sample_by_laws_of_its_own(monkeypatch):
    def build():
        target, drafter = hierarchy((2,), 2)()
        drafter.sampling = Sampling(0.5)
        return target, drafter

    found = text_law(build, PROMPT, 4, Sampling(1.0), "hsd", monkeypatch)
    assert total_variation(found, plain_law(build()[0], PROMPT, 4, Sampling(1.0))) < EXACT


def wrong_law(wrong: type, monkeypatch: pytest.MonkeyPatch, buffers=(1,), num_tokens=4) -> float:
    def build():
        models = [TableModel(seed) for seed in range(len(buffers) + 1)]
        drafter: Any = TableDrafter(TableModel(99), 2)
        for model, buffer in zip(reversed(models[1:]), reversed(buffers), strict=True):
            drafter = wrong(model, drafter, buffer)
        return models[0], drafter

    found = text_law(build, PROMPT, num_tokens, Sampling(1.0), "hsd", monkeypatch)
    return total_variation(found, plain_law(build()[0], PROMPT, num_tokens, Sampling(1.0)))


class OtherLaws(LevelDrafter):
    """States the laws of another model for the tokens it hands up."""

    def propose(self, chance, max_depth):
        tree = super().propose(chance, max_depth)
        laws = torch.stack(
            [TableModel(99).logits((*self._text, *tree.token_list[1 : i + 1])) for i in range(tree.num_nodes)]
        )
        return replace(tree, draft_probs=laws.softmax(-1)) if tree.num_nodes > 1 else tree


class WithoutCorrection(LevelDrafter):
    """Hands up what was accepted and keeps the last token, which the verdict added, to itself."""

    def propose(self, chance, max_depth):
        tree = super().propose(chance, max_depth)
        return first_nodes(tree, tree.num_nodes - 1)


class CutBeforeUnlikely(LevelDrafter):
    """Ends the window before a token that its law thinks unlikely: existence depends on the token itself."""

    def propose(self, chance, max_depth):
        tree = super().propose(chance, max_depth)
        own = [float(tree.draft_probs[i - 1, tree.token_list[i]]) for i in range(1, tree.num_nodes)]
        return first_nodes(tree, 1 + next((i for i, prob in enumerate(own) if prob < 0.3), len(own)))


class CutAfterUnlikely(LevelDrafter):
    """Ends the window behind such a token: a stopping time, and exact."""

    def propose(self, chance, max_depth):
        tree = super().propose(chance, max_depth)
        own = [float(tree.draft_probs[i - 1, tree.token_list[i]]) for i in range(1, tree.num_nodes)]
        return first_nodes(tree, 2 + next((i for i, prob in enumerate(own) if prob < 0.3), len(own) - 1))


def first_nodes(tree: DraftTree, num: int) -> DraftTree:
    if tree.num_nodes <= 1:
        return tree
    num = max(num, 1)
    return DraftTree(tree.parents[:num], tree.tokens[:num], tree.sampled[:num], tree.draft_probs[:num])


@pytest.mark.parametrize("wrong", [OtherLaws, WithoutCorrection, CutBeforeUnlikely])
def test_wrong_hierarchies_are_caught(wrong, monkeypatch):
    assert wrong_law(wrong, monkeypatch) > 1e-3


def test_a_window_may_end_behind_an_unlikely_token(monkeypatch):
    assert wrong_law(CutAfterUnlikely, monkeypatch) < EXACT


MODELS: list[dict[str, Any]] = [  # largest first
    {"num_hidden_layers": 9},
    {"num_hidden_layers": 8},
    {"num_hidden_layers": 8, "hidden_size": 16},
]


def real_hierarchy(levels: int, dtype: torch.dtype = torch.float64) -> tuple[Target, Drafter]:
    """Random models of one vocabulary; the smallest one's head drafts. `levels` counts the head."""
    models = [tiny_target(seed=i, **changes) for i, changes in enumerate(MODELS[: levels - 1])]
    for model in models:
        model.model.to(dtype)
    drafter: Drafter = EagleDrafter(tiny_head(models[-1]).to(dtype), models[-1].embed, AutoTree(6))
    for model in reversed(models[1:]):
        drafter = LevelDrafter(model, drafter, 3)
    return models[0], drafter


def double(target: Target) -> Target:
    target.model.double()
    return target


@pytest.mark.parametrize("options", [GREEDY, COUPLED, COUPLED_COOL])
@pytest.mark.parametrize("levels", [2, 3, 4])
def test_settled_texts_are_plain_decodings(levels, options):
    """Temperature 0, and shared noise above: two turns with a shared prefix, and an answer that is left half-way."""
    target, drafter = real_hierarchy(levels)
    session, ids, draws = Session(target, drafter), random_ids(9), seeded(3)
    first = tokens_of(session.decode(ids, options, draws))
    left = session.decode([*ids, *first[:5], 7], options, draws)
    next(left), next(left)
    second = tokens_of(session.decode([*ids, *first, 5, 6], options, draws))
    draws = seeded(3)
    assert first == tokens_of(autoregressive(target, ids, options, draws))
    tokens_of(autoregressive(target, [*ids, *first[:5], 7], options, draws))
    assert second == tokens_of(autoregressive(target, [*ids, *first, 5, 6], options, draws))


@pytest.mark.parametrize("comb", [False, True])
def test_a_model_that_drafts_for_itself_is_always_right(comb):
    """The level is the target once more: at temperature 0 all its tokens are accepted, in windows of the buffer."""
    target, _ = real_hierarchy(2)
    drafter = LevelDrafter(target, EagleDrafter(tiny_head(target).double(), target.embed, AutoTree(6)), 3, comb=comb)
    steps = list(Session(target, drafter).decode(random_ids(9), GREEDY))
    assert tokens_of(steps) == tokens_of(autoregressive(target, random_ids(9), GREEDY))
    drafted = [step.round.tree for step in steps[1:-1] if step.round is not None]
    assert all(step.num_accepted >= 3 for step in steps[1:-1])
    assert all(tree.num_nodes == (2 * max(tree.depth) + 1 if comb else max(tree.depth) + 1) for tree in drafted)
    stats = drafter.stats
    assert stats.survival[2] >= len(drafted) and stats.tokens / stats.windows >= 2.5


def test_no_extra_pass_is_made_for_a_round_of_the_target():
    """Unread tokens are read with the next tree: as many passes as verdicts, and one for the prompt.

    Without folding, every round above that keeps a whole window would cost one more.
    """
    target, level = TableModel(0), TableModel(0)
    drafter = LevelDrafter(level, TableDrafter(TableModel(99), 2, reads=level), 2)
    verdicts = []
    advance = LevelState.advance
    drafter._state.advance = lambda *args: verdicts.append(1) or advance(drafter._state, *args)  # type: ignore[method-assign]
    steps = list(Session(target, drafter).decode(PROMPT, DecodeOptions(Sampling(), 30)))
    assert all(step.num_accepted >= 2 for step in steps[1:-1])  # the level is the target's own table
    assert level.passes == len(verdicts) + 1 == drafter.stats.passes + 1


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)])
def test_caches_hold_what_a_fresh_reading_would(sampling):
    """After every round: keys and values of every level equal those of one pass over its text."""
    target, drafter = real_hierarchy(4, torch.float32)
    for _ in Session(target, drafter).decode(random_ids(9), DecodeOptions(sampling, 12, "hsd"), seeded(0)):
        below: Any = drafter
        while isinstance(below, LevelDrafter):
            assert_fresh(below)
            below = below.drafter


def assert_fresh(level: LevelDrafter) -> None:
    cache: Any = level._state.cache
    read = level._state._known[: cache.length]
    if not read:
        return
    fresh: Any = level.model.new_cache()
    level.model.prefill(torch.tensor(read), fresh)
    for kept, expected in zip(cache._layers, fresh._layers, strict=True):
        for mine, other in ((kept.keys, expected.keys), (kept.values, expected.values)):
            # float32 sums in another order, of numbers around 1
            torch.testing.assert_close(mine[:, :, : len(read)], other[:, :, : len(read)], atol=1e-3, rtol=1e-3)


def test_a_level_at_the_end_of_its_context_drafts_no_more():
    target = double(tiny_target())
    small = double(tiny_target(seed=1, max_position_embeddings=24))
    drafter = LevelDrafter(small, EagleDrafter(tiny_head(small).double(), small.embed, AutoTree(6)), 3)
    options = DecodeOptions(Sampling(), 40)
    text = tokens_of(Session(target, drafter).decode(random_ids(9), options))
    assert text == tokens_of(autoregressive(target, random_ids(9), options))


def test_rows_that_stand_for_no_token_are_never_proposed():
    """A model with padded rows, for a target with fewer: 97 tokens, 128 rows."""
    target, padded = tiny_target(), tiny_target(seed=1, vocab_size=128)
    padded.model.get_output_embeddings().weight.data[97:] *= 50  # so that they would be chosen
    drafter = EagleDrafter(tiny_head(padded, draft_vocab_size=60), padded.embed, AutoTree(6))
    level = LevelDrafter(padded, drafter, 3, num_tokens=97, vocab_size=97)
    session = Session(target, level)
    for step in session.decode(random_ids(9), DecodeOptions(Sampling(1.0), 12, "hsd"), seeded(0)):
        if step.round is not None:
            assert max(step.round.tree.token_list) < 97


def test_what_cannot_be_a_level_is_refused():
    small = tiny_target()
    below = EagleDrafter(tiny_head(small), small.embed, AutoTree(6))
    with pytest.raises(ValueError, match="buffer is 0, it must be at least 1"):
        LevelDrafter(small, below, 0)
    with pytest.raises(ValueError, match="no verifier 'coupled'"):
        LevelDrafter(small, below, verifier="coupled")
    with pytest.raises(ValueError, match="nothing observed yet"):
        LevelDrafter(small, below).propose(Chance(Sampling()), 3)
    with pytest.raises(ValueError, match="cannot truncate 0 known tokens to 1"):
        LevelDrafter(small, below).truncate(1)
