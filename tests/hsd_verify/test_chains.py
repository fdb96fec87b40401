"""Packed chains have the law that `law` gives each of them alone, and at the same numbers the same verdict.

Letters: B chains, M drafted tokens of all of them, K those of the longest, V vocabulary.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hsd_verify
from hsd_verify.chains import UNDECIDED, ChainLaws, Chains, chain_laws, tokenwise_stops, walk_chains
from hsd_verify.draw import draw_at
from hsd_verify.exact.enumerate import chain, text_law, total_variation
from tests.hsd_verify.models import random_model
from tests.hsd_verify.trees import outcome

VOCAB = 5
LENGTHS = [3, 0, 1, 4, 2]  # a chain of none: nothing was drafted for that request
EXACT = 1e-12  # float64 sums of a few dozen terms round to some 1e-15


def packed(seed: int, placed: bool = False, scale: float = 2.0) -> tuple[Chains, Tensor, Tensor]:
    """Chains of `LENGTHS`, target laws (M, V) where their tokens were drafted, and (B, V) behind them whole."""
    generator = torch.Generator().manual_seed(seed)
    num_tokens = sum(LENGTHS)
    logits = scale * torch.randn(num_tokens + len(LENGTHS), VOCAB, generator=generator, dtype=torch.float64)
    draft = (logits[:num_tokens] + torch.randn(num_tokens, VOCAB, generator=generator, dtype=torch.float64)).softmax(-1)
    tokens = torch.multinomial(draft, 1, generator=generator)[:, 0]
    ends = torch.tensor(LENGTHS).cumsum(0)
    target = logits.softmax(-1)
    return Chains(tokens, ends, max(LENGTHS), None if placed else draft), target[:num_tokens], target[num_tokens:]


def tree_of(chains: Chains, b: int, target: Tensor, behind: Tensor) -> tuple[hsd_verify.DraftTree, Tensor]:
    """Chain b as a tree, with its target rows (N, V)."""
    start, length = int(chains.ends[b]) - LENGTHS[b], LENGTHS[b]
    rows = slice(start, start + length)
    probs = None
    if chains.draft_probs is not None:
        probs = torch.cat([chains.draft_probs[rows], torch.zeros(1, VOCAB, dtype=torch.float64)])
    tree = hsd_verify.DraftTree(
        torch.arange(-1, length),
        torch.cat([torch.zeros(1, dtype=torch.int64), chains.tokens[rows]]),
        torch.tensor([False] + [probs is not None] * length),
        probs,
    )
    return tree, torch.cat([target[rows], behind[b : b + 1]])


def joint(laws: ChainLaws, behind: Tensor) -> Tensor:
    """(B, K + 1, V): where each chain ends and what follows; behind whole chains the law (B, V) that is known there."""
    levels = []
    for node in range(laws.chains.longest + 1):
        left = laws.residual(torch.full((len(behind),), node))
        left = torch.where((laws.chains.lengths == node)[:, None], behind, left)
        levels.append(laws.stop[:, node, None] * left / left.sum(-1, keepdim=True).clamp(min=1e-300))
    return torch.stack(levels, dim=1)


@pytest.mark.parametrize("placed", [False, True], ids=["drawn", "placed"])
@pytest.mark.parametrize("scale", [0.3, 2.0, 8.0])
def test_every_chain_has_the_law_of_its_tree(placed, scale):
    for seed in range(20):
        chains, target, behind = packed(seed, placed, scale)
        found, tokenwise = joint(chain_laws(chains, target), behind), tokenwise_stops(chains, target)
        for b, length in enumerate(LENGTHS):
            tree, rows = tree_of(chains, b, target, behind)
            assert total_variation(found[b, : length + 1], outcome(hsd_verify.law(tree, rows))) < EXACT
            assert float(found[b, length + 1 :].abs().sum()) == 0
            expected = hsd_verify.law(tree, rows, "tokenwise").stop
            torch.testing.assert_close(tokenwise[b, : length + 1], expected, rtol=0, atol=EXACT)


def test_the_emitted_text_has_the_targets_law():
    """Every draft of two tokens over three, weighed with its probability: the definition of lossless."""
    target, draft = random_model(3, 1), random_model(3, 2)
    emitted = torch.zeros(3, 3, 3, dtype=torch.float64)
    for prob, tree in chain(draft, 2)(()):
        x, y = tree.token_list[1:]
        rows = torch.stack([target(()), target((x,)), target((x, y))])
        laws = chain_laws(Chains(tree.tokens[1:], torch.tensor([2]), 2, tree.draft_probs[:2]), rows[:2])
        ends = joint(laws, rows[2:])[0]  # (3, V) by number of accepted tokens
        emitted[x, y] += prob * ends[2]
        emitted[x] += prob * ends[1][:, None] * torch.stack([target((x, z)) for z in range(3)])
        for z in range(3):
            emitted[z] += prob * ends[0, z] * text_law(target, 2, (z,))
    assert total_variation(emitted, text_law(target, 3)) < EXACT


@pytest.mark.parametrize("placed", [False, True], ids=["drawn", "placed"])
def test_the_same_numbers_give_the_same_verdict(placed):
    """By number: node v of a tree is asked with `uniforms[v]`, the token with the last one."""
    for seed in range(40):
        chains, target, behind = packed(seed, placed)
        generator = torch.Generator().manual_seed(seed)
        numbers = torch.rand(len(LENGTHS), chains.longest + 2, generator=generator, dtype=torch.float64)
        accepted, token = chain_laws(chains, target).draw(numbers[:, :-1], numbers[:, -1])
        for b, length in enumerate(LENGTHS):
            tree, rows = tree_of(chains, b, target, behind)
            of_tree = torch.cat([numbers[b, : length + 1], numbers[b, -1:]])
            node, expected = draw_at(hsd_verify.law(tree, rows), of_tree)
            assert (int(accepted[b]), int(token[b])) == (node, UNDECIDED if node == length else expected)


def test_a_chain_ends_where_nothing_was_drafted():
    """Engines pad refused drafts with -1. The verifier stops before, and the token is drawn from the target there."""
    for placed in (False, True):
        chains, target, _ = packed(3, placed)
        tokens = chains.tokens.clone()
        tokens[1] = -1  # of the first chain, of three
        laws = chain_laws(Chains(tokens, chains.ends, chains.longest, chains.draft_probs), target)
        short = None if placed else torch.cat([chains.draft_probs[:1], torch.zeros(1, VOCAB, dtype=torch.float64)])
        tree = hsd_verify.DraftTree(
            torch.tensor([-1, 0]), torch.tensor([0, int(tokens[0])]), torch.tensor([False, not placed]), short
        )
        expected = outcome(hsd_verify.law(tree, target[:2]))
        found = torch.stack([laws.stop[0, i] * _normal(laws.residual(torch.full((5,), i))[0]) for i in range(2)])
        assert total_variation(found, expected) < EXACT
        assert laws.stop[0, 2:].sum() == 0
        sure = torch.full((5, 5), 0.0, dtype=torch.float64)
        accepted, token = laws.draw(sure, sure[:, 0])
        assert (int(accepted[0]), int(token[0])) == (1, 0)  # number 0 takes the first token that can be


def test_a_draft_that_is_the_targets_law_is_accepted_whole():
    chains, target, _ = packed(5)
    laws = chain_laws(Chains(chains.tokens, chains.ends, chains.longest, target), target)
    assert laws.stop.gather(1, chains.lengths[:, None]).min() == 1
    worst = torch.full((5, 5), 1 - 2**-53, dtype=torch.float64)
    accepted, token = laws.draw(worst, worst[:, 0])
    assert accepted.tolist() == LENGTHS and set(token.tolist()) == {UNDECIDED}


def test_chosen_tokens_are_followed_as_far_as_they_were_drafted():
    tokens = torch.tensor([7, 8, 9, 7, 8, 3, -1, 2])
    chosen = torch.tensor([7, 8, 1, 7, 8, 4, 2, 2])
    accepted, token = walk_chains(Chains(tokens, torch.tensor([3, 5, 5, 6, 8]), 3), chosen)
    assert accepted.tolist() == [2, 2, 0, 0, 0]
    assert token.tolist() == [1, UNDECIDED, UNDECIDED, 4, 2]


def test_what_does_not_fit_is_refused():
    chains, target, _ = packed(0)
    with pytest.raises(ValueError, match="longest chain of at least one token"):
        Chains(chains.tokens, chains.ends, 0)
    with pytest.raises(ValueError, match="draft_probs has 9 rows: pass one a token, 10"):
        Chains(chains.tokens, chains.ends, 4, chains.draft_probs[1:])
    with pytest.raises(ValueError, match=r"target_probs has shape \(9, 5\): pass \(10, V\)"):
        chain_laws(chains, target[1:])
    with pytest.raises(ValueError, match="scatter the draft's law into the target's vocabulary"):
        chain_laws(chains, target[:, :4])


def _normal(row: Tensor) -> Tensor:
    return row / row.sum()
