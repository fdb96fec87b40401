"""A hierarchy of drafters writes the target's text: its law, every random choice listed, and greedy text by token."""

from dataclasses import replace

import pytest
import torch

from eagle.drafters.level import LevelDrafter
from eagle.drafters.protocol import Drafter
from eagle.sampling import Sampling
from hsd_verify import DraftTree
from tests.drafters.tables import TableDrafter, TableModel, plain_law, text_law, total_variation

PROMPT = [0, 1, 2]
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


@pytest.mark.parametrize("top_p", [1.0, 0.8])
@pytest.mark.parametrize("verifier", ["hsd", "tokenwise"])
@pytest.mark.parametrize(
    ("buffers", "num_tokens", "length"),
    [((1,), 5, 1), ((2,), 5, 2), ((1, 1), 4, 1), ((2, 1), 5, 1), ((1, 2), 4, 1), ((2, 2), 4, 1)],
)
def test_the_text_has_the_targets_law(buffers, num_tokens, length, verifier, top_p, monkeypatch):
    """Through the real session: 3 and 4 levels with the lowest drafter, every random choice listed."""
    sampling, build = Sampling(1.0, top_p=top_p), hierarchy(buffers, length, verifier)
    found = text_law(build, PROMPT, num_tokens, sampling, verifier, monkeypatch)
    expected = plain_law(build()[0], PROMPT, num_tokens, sampling)
    assert total_variation(found, expected) < EXACT


def wrong_law(wrong: type, monkeypatch: pytest.MonkeyPatch, buffers=(2, 2), num_tokens=4) -> float:
    def build():
        models = [TableModel(seed) for seed in range(len(buffers) + 1)]
        drafter = TableDrafter(TableModel(99), 2)
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
