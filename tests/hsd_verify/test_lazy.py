"""`verify` of `hsd` on a CPU works out only what its draw depends on, and stays a draw from the law, exactly."""

from __future__ import annotations

import pytest
import torch

import hsd_verify
from hsd_verify import lazy
from hsd_verify.draw import draw_at
from hsd_verify.exact import enumerate as exact
from hsd_verify.target_rows import TargetRows
from tests.hsd_verify.processes import LAWS, PROCESSES
from tests.hsd_verify.trees import numbered_cases, random_case

EXACT = 1e-12
ALMOST_ONE = 1 - 2**-53  # the largest double below 1
BISECTIONS = 44  # leave an interval of 1e-13
CASES = [(seed, replacement, (0.3, 2.0, 8.0)[seed % 3]) for seed in range(6) for replacement in (False, True)]


def some_trees(process, draft, number):
    """About this many of the trees that a process can draft, from the first to the last."""
    trees = [tree for _, tree in PROCESSES[process](draft)()]
    return trees[:: max(1, len(trees) // number)]


def lazy_draw(tree, target, uniforms):
    return lazy.hsd_verdict(TargetRows.given(tree, target), uniforms)


def implied_stop(tree, target, make_rows=TargetRows.given):
    """Law of the stop (N,) that the lazy walk follows, read off its verdicts alone.

    Asked in post-order, node v ends the verdict iff its number is below some threshold. With the numbers of all other
    nodes next to 1 it does so last, and bisection finds the threshold: the probability of stopping at v if no earlier
    node did.
    """
    stop, remaining = torch.zeros(tree.num_nodes, dtype=torch.float64), 1.0
    for node in tree.post_order:
        share = _threshold(tree, make_rows(tree, target), node)
        stop[node] = remaining * share
        remaining *= 1 - share
    return stop


def _threshold(tree, rows, node):
    uniforms = torch.full((tree.num_nodes + 1,), ALMOST_ONE, dtype=torch.float64)
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        uniforms[node] = (low + high) / 2
        stopped = lazy.hsd_verdict(rows, uniforms)[0]
        low, high = (uniforms[node].item(), high) if stopped == node else (low, uniforms[node].item())
    return 1.0 if high == 1 else 0.0 if low == 0 else high


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("seed", range(9))
def test_the_same_numbers_give_the_same_verdict_as_the_law(seed, replacement):
    for tree, target, uniforms in numbered_cases(seed, replacement):
        assert lazy_draw(tree, target, uniforms) == draw_at(hsd_verify.law(tree, target), uniforms)


@pytest.mark.parametrize("laws", LAWS)
@pytest.mark.parametrize("process", PROCESSES)
def test_also_on_degenerate_laws(process, laws):
    """p = q, disjoint supports, one-hot laws, probabilities of 1e-30; numbers at the edges.

    Next to 1 a verdict need only be possible: either side of a threshold of 1 - 1e-16 is right.
    """
    target, draft = LAWS[laws]
    for tree in some_trees(process, draft, 3):
        rows = exact.target_rows(tree, target)
        law = hsd_verify.law(tree, rows)
        for uniform in (0.0, 0.5, ALMOST_ONE):
            uniforms = torch.full((tree.num_nodes + 1,), uniform, dtype=torch.float64)
            node, token = lazy_draw(tree, rows, uniforms)
            assert law.stop[node] > 0
            assert law.residual(node)[token] > 0
            assert uniform == ALMOST_ONE or (node, token) == draw_at(law, uniforms)


def formed(tree, target):
    return TargetRows.formed(tree, target.__getitem__)


@pytest.mark.parametrize("make_rows", [TargetRows.given, formed])
@pytest.mark.parametrize(("seed", "replacement", "scale"), CASES)
def test_its_verdicts_follow_the_law_exactly(seed, replacement, scale, make_rows):
    tree, target = random_case(seed, 3 + seed % 5, 9, replacement, scale)
    law = hsd_verify.law(tree, target)
    assert float((implied_stop(tree, target, make_rows) - law.stop).abs().max()) < EXACT


@pytest.mark.parametrize("laws", ["random-4", "equal", "disjoint", "zero-mass", "one-hot-target", "tiny"])
@pytest.mark.parametrize("process", ["chain", "iid", "without-replacement", "hybrid-two-sampled", "exhausted-hybrid"])
def test_also_exactly_on_degenerate_laws(process, laws):
    target, draft = LAWS[laws]
    for tree in some_trees(process, draft, 2):
        rows = exact.target_rows(tree, target)
        assert float((implied_stop(tree, rows) - hsd_verify.law(tree, rows).stop).abs().max()) < EXACT


@pytest.mark.parametrize("replacement", [False, True])
def test_float32_over_a_real_vocabulary_follows_the_float64_law(replacement, monkeypatch):
    """As in `test_numerics.py`: measured near 1e-7; the token is not drawn here, which would take most of the time."""
    monkeypatch.setattr(lazy, "draw_index", lambda weights, uniform: 0)
    tree, target = random_case(1, 8, 49_152, replacement, scale=3.0)
    single = hsd_verify.DraftTree(tree.parents, tree.tokens, tree.sampled, tree.draft_probs.float(), replacement)
    distance = implied_stop(single, target.float()) - hsd_verify.law(tree, target).stop
    assert float(distance.abs().max()) < 1e-5


def chain(target_row, draft_row, num_nodes, token=0):
    parents, tokens = torch.arange(num_nodes) - 1, torch.full((num_nodes,), token)
    target, draft = (torch.tensor(row, dtype=torch.float64).expand(num_nodes, -1) for row in (target_row, draft_row))
    return hsd_verify.DraftTree(parents, tokens, parents >= 0, draft), target


def test_a_subtree_may_fire_more_often_than_its_weight():
    """Why none is skipped by its weight: token 1 has p/q = 1/2, then token 0 has 3, so both are accepted for sure.

    "The subtree fires with probability w" is a mean over what the draft may have put there, here 1/2.
    """
    tree = hsd_verify.DraftTree(
        torch.tensor([-1, 0, 1]),
        torch.tensor([0, 1, 0]),
        torch.tensor([False, True, True]),
        torch.tensor([[0.2, 0.8], [0.2, 0.8], [0.5, 0.5]], dtype=torch.float64),
    )
    target = torch.tensor([[0.6, 0.4]] * 3, dtype=torch.float64)
    assert hsd_verify.law(tree, target).stop.tolist() == [0, 0, 1]
    assert lazy_draw(tree, target, torch.full((4,), 0.7, dtype=torch.float64))[0] == 2


@pytest.mark.parametrize("uniform", [0.01, 0.5, 0.99])
def test_a_long_chain_takes_few_passes(uniform, monkeypatch):
    """Weights halve from node to node, so only the few shallow nodes whose weight exceeds the number are formed."""
    passes = []
    left = lazy._Walk._left
    monkeypatch.setattr(lazy._Walk, "_left", lambda walk, node: passes.append(node) or left(walk, node))
    tree, target = chain([0.25, 0.75], [0.5, 0.5], 32)
    assert lazy_draw(tree, target, torch.full((33,), uniform, dtype=torch.float64))[0] >= 0
    assert len(passes) <= 9


@pytest.mark.parametrize("verifier", ["hsd", "tokenwise"])
@pytest.mark.parametrize("seed", range(6))
def test_rows_may_be_formed_where_they_are_read(seed, verifier):
    """The same verdict as from all rows; `hsd` asks for the nodes with children at once and for one leaf at most."""
    tree, target = random_case(seed, 2 + 2 * seed, 11, seed % 2 == 1)
    leaves = {node for node, children in enumerate(tree.children) if not children}
    asked: list[list[int]] = []

    def form(nodes):
        asked.append(torch.arange(tree.num_nodes)[nodes].tolist())
        return target[nodes]

    for number in range(20):
        asked.clear()
        drawn, given = (
            hsd_verify.verify(tree, laws, verifier, torch.Generator().manual_seed(number)) for laws in (form, target)
        )
        assert drawn.path.tolist() == given.path.tolist() and drawn.next_token == given.next_token
        if verifier == "hsd":
            assert not leaves & set(asked[0])
            assert asked[1:] == ([[drawn.node]] if drawn.node in leaves else [])


def test_a_bare_root_is_formed_once():
    tree = hsd_verify.DraftTree(torch.tensor([-1]), torch.tensor([3]))
    row = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    calls = []
    verdict = hsd_verify.verify(tree, lambda nodes: calls.append(nodes) or row[nodes])
    assert verdict.next_token == 1 and len(calls) == 1


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda nodes: torch.full((len(nodes), 11), 0.1, dtype=torch.float64), r"target_probs\[0\].*sums to"),
        (lambda nodes: torch.full((len(nodes) + 1, 11), 1 / 11), r"form \(\d+, V\)"),
        (lambda nodes: torch.full((len(nodes), 11), 1 / 11), "draft_probs is torch.float64"),
        (lambda nodes: torch.full((len(nodes), 2), 0.5, dtype=torch.float64), "scatter the draft's law"),
    ],
)
def test_formed_rows_are_checked(form, message):
    tree, _ = random_case(0, 6, 11, False)
    with pytest.raises(ValueError, match=message):
        hsd_verify.verify(tree, form)


def test_a_leaf_that_is_no_law_is_refused_where_the_verdict_ends():
    tree, target = chain([1.0, 0.0], [1.0, 0.0], 3)

    def form(nodes):
        return torch.where(nodes[:, None] == 2, 2.0, 1.0) * target[nodes]

    with pytest.raises(ValueError, match=r"target_probs\[2\].*sums to 2"):
        hsd_verify.verify(tree, form)
