"""A verdict is one draw from the law: never an impossible one, and as often as the law says."""

from __future__ import annotations

import pytest
import torch

import hsd_verify
from hsd_verify.draw import draw_at, draw_index
from tests.hsd_verify.trees import outcome, random_case

ALMOST_ONE = 1 - 2**-53  # the largest double below 1


@pytest.mark.parametrize("uniform", [0.0, 1e-300, 0.25, 0.5, 0.75, ALMOST_ONE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tokens_of_weight_zero_are_never_drawn(uniform, dtype):
    """The edges: u = 0 with leading zeros, u next to 1 with trailing zeros, u on a step of the cumulative sum."""
    weights = torch.tensor([0, 0, 0.25, 0, 0.5, 0.25, 0, 0], dtype=dtype)
    expected = 2 if uniform < 0.25 else 4 if uniform < 0.75 else 5
    assert draw_index(weights, torch.tensor(uniform, dtype=torch.float64)) == expected


@pytest.mark.parametrize("total", [1e-300, 1 / 3, 7.0])
def test_weights_need_not_be_normalised(total):
    weights = total * torch.tensor([0.1, 0.0, 0.9, 0.0], dtype=torch.float64)
    assert draw_index(weights, torch.tensor(ALMOST_ONE, dtype=torch.float64)) == 2


def test_verdicts_follow_the_law():
    """Pearson's chi-square over nodes and tokens at 20,000 draws of a fixed seed.

    Outcomes expected fewer than five times are pooled. The limit is mean + 5 standard deviations of the chi-square
    law, sqrt(2 k): with k near 30 a correct draw exceeds it in about 1 of 30,000 seeds, and this seed does not.
    """
    tree, target = random_case(3, 6, 7)
    law, generator, num_draws = hsd_verify.law(tree, target), torch.Generator().manual_seed(0), 20_000
    expected, counts = num_draws * outcome(law).flatten(), torch.zeros(6 * 7, dtype=torch.float64)
    for uniforms in torch.rand(num_draws, tree.num_nodes + 1, generator=generator, dtype=torch.float64):
        node, token = draw_at(law, uniforms)
        counts[node * 7 + token] += 1
    assert (counts[expected == 0] == 0).all()
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    wanted = torch.cat([expected[common], expected[~common].sum()[None]])
    statistic, degrees = float(((observed - wanted) ** 2 / wanted.clamp(min=1)).sum()), len(wanted) - 1
    assert statistic < degrees + 5 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("uniform", [0.0, 0.5, ALMOST_ONE])
def test_nodes_of_probability_zero_never_end_a_verdict(uniform):
    """The edges again, for nodes: stop probabilities 0 at the first, the second or the last node in post-order."""
    tree = hsd_verify.DraftTree(torch.tensor([-1, 0, 0]), torch.tensor([0, 1, 2]))
    uniforms = torch.full((4,), uniform, dtype=torch.float64)
    for row in ([0.0, 0.3, 0.7], [0.3, 0.0, 0.7], [0.3, 0.7, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]):
        law = hsd_verify.law(tree, torch.tensor([row] * 3, dtype=torch.float64), "walk")
        node, _ = draw_at(law, uniforms)
        assert law.stop[node] > 0


@pytest.mark.parametrize("seed", range(40))
def test_greedy_verification_needs_no_laws(seed):
    """Half of the best tokens are children's, so that paths are entered; every verifier that applies must agree."""
    tree, target = random_case(seed, 9, 12)
    best = target.argmax(-1)  # (N,)
    for node in range(0, tree.num_nodes, 2):
        if tree.children[node]:
            best[node] = tree.tokens[tree.children[node][-1]]
    found = hsd_verify.verify_chosen(tree, best)
    rows = torch.nn.functional.one_hot(best, target.shape[1]).double()
    for verifier in ("greedy", "walk", "tokenwise", "hsd"):
        expected = hsd_verify.verify(tree, rows, verifier)
        assert (found.path.tolist(), found.next_token) == (expected.path.tolist(), expected.next_token)


def test_tokens_are_asked_for_along_the_path_only():
    """A function in place of the tokens: the verdict is the same, and nodes beside the path are never decided."""
    tree = hsd_verify.DraftTree(torch.tensor([-1, 0, 0, 2, 2, 1]), torch.tensor([0, 1, 2, 1, 2, 2]))
    best, asked = torch.tensor([2, 2, 1, 2, 0, 1]), []
    found = hsd_verify.verify_chosen(tree, lambda node: asked.append(node) or int(best[node]))
    expected = hsd_verify.verify_chosen(tree, best)
    assert asked == [0, 2, 3]
    assert (found.path.tolist(), found.next_token) == (expected.path.tolist(), expected.next_token) == ([2, 3], 2)


def test_greedy_verification_wants_a_token_a_node():
    tree = hsd_verify.DraftTree(torch.tensor([-1, 0]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"chosen has shape \(3,\), the tree has 2 nodes: pass logits.argmax"):
        hsd_verify.verify_chosen(tree, torch.tensor([0, 1, 2]))


def test_a_verdict_names_the_path_from_the_root():
    tree = hsd_verify.DraftTree(torch.tensor([-1, 0, 0, 2]), torch.tensor([0, 1, 2, 1]))
    one_hot = torch.eye(3)[[2, 0, 1, 0]]
    verdict = hsd_verify.verify(tree, one_hot, "greedy")
    assert (verdict.path.tolist(), verdict.next_token, verdict.num_accepted, verdict.node) == ([2, 3], 0, 2, 3)
