"""Exact expectations of recorded rounds against enumeration by hand, bounds and the sampled count."""

import math

import pytest
import torch

import hsd_verify
from eagle.decode import DecodeOptions, Round, Session
from eagle.judging import IndependentDraws
from eagle.sampling import Sampling, seeded
from eagle.trees import EagleTree, SampledChain
from evaluation.expected import ExactTau, counted_nodes, path_probs
from hsd_verify import DraftTree
from tests.tiny import random_ids, tiny_drafter

#        0
#      1   2      tokens 1, 2 below the root; 3 and 4 below node 1; 5 below node 3
#     3 4
#     5
TREE = DraftTree(torch.tensor([-1, 0, 0, 1, 1, 3]), torch.tensor([0, 1, 2, 3, 4, 5]))
PROBS = torch.full((6, 6), 1 / 6)
NO_END: frozenset[int] = frozenset()


def seen(tree: DraftTree, probs: torch.Tensor, path: tuple[int, ...]) -> Round:
    return Round(tree, probs.log(), IndependentDraws(Sampling(1.0), "walk", None), path)


def exact_of(*rounds: Round, end=NO_END, greedy=False) -> ExactTau:
    exact = ExactTau(end, greedy)
    for round_ in rounds:
        exact.add(round_)
    return exact


def test_known_sums_on_a_small_tree():
    """Uniform over six tokens: p(v) is 1/6 at depth 1, 1/36 at depth 2, 1/216 at depth 3."""
    expected = 2 / 6 + 2 / 36 + 1 / 216
    exact = exact_of(seen(TREE, PROBS, ()), seen(TREE, PROBS, (1,)))
    assert exact.bound == pytest.approx(2 * expected)
    assert exact.sums["walk"] == pytest.approx(2 * expected, rel=1e-6)


def test_tokens_behind_an_end_do_not_count():
    """Token 1 ends the text, so nodes 3, 4 and 5 below it are never emitted; token 5 is the last of its path anyway."""
    assert counted_nodes(TREE, frozenset({1})).tolist() == [False, True, True, False, False, False]
    exact = exact_of(seen(TREE, PROBS, ()), end=frozenset({1, 5}))
    assert exact.bound == pytest.approx(2 / 6) and exact.sums["walk"] == pytest.approx(2 / 6, rel=1e-6)


def test_of_equal_siblings_one_counts():
    twins = DraftTree(torch.tensor([-1, 0, 0]), torch.tensor([0, 1, 1]))
    assert path_probs(twins, PROBS[:3]).tolist() == pytest.approx([1, 1 / 6, 0])


def test_no_verifier_passes_the_bound_and_a_sampled_tree_has_none():
    generator = seeded(0)
    for _ in range(20):
        laws = torch.rand(6, 6, generator=generator).softmax(-1)
        exact = exact_of(seen(TREE, laws, ()))
        assert all(total <= exact.bound + 1e-6 for total in exact.sums.values())
        assert exact.sums["hsd"] == pytest.approx(exact.sums["walk"], rel=1e-4)
    drawn = torch.tensor([False, True])
    chain = DraftTree(torch.tensor([-1, 0]), torch.tensor([0, 1]), drawn, torch.full((2, 6), 1 / 6))
    assert exact_of(seen(TREE, PROBS, ()), seen(chain, PROBS[:2], ())).bound is None


def test_a_verifier_that_refuses_one_tree_is_left_out(monkeypatch):
    def picky(tree, target_probs, totals):
        if tree.num_nodes == 6:
            raise ValueError("not this one")
        return hsd_verify.VERIFIERS["walk"](tree, target_probs, totals)

    monkeypatch.setitem(hsd_verify.VERIFIERS, "picky", picky)
    small = DraftTree(torch.tensor([-1, 0]), torch.tensor([0, 1]))
    assert "picky" in exact_of(seen(small, PROBS[:2], ())).sums
    assert "picky" not in exact_of(seen(small, PROBS[:2], ()), seen(TREE, PROBS, ())).sums


@pytest.mark.parametrize(("policy", "verifier"), [(EagleTree(8, 3, 3), "walk"), (SampledChain(3), "hsd")])
def test_the_sampled_count_is_as_near_as_chance_allows(target, policy, verifier):
    """Accepted less expected is a sum of bounded, centred differences: |sum| > t has probability below
    2 exp(-t^2 / (2 n 3^2)) (Hoeffding and Azuma, depth 3). t is chosen for a false alarm of one in a million."""
    session = Session(target, tiny_drafter(target, policy))
    options = DecodeOptions(Sampling(1.0), max_new_tokens=150, verifier=verifier)
    exact, accepted, rounds = ExactTau(NO_END, greedy=False), 0, 0
    for step in session.decode(random_ids(9), options, seeded(3)):
        if step.round is not None:
            exact.add(step.round)
            accepted, rounds = accepted + step.num_accepted, rounds + 1
    assert abs(accepted - exact.sums[verifier]) < math.sqrt(2 * rounds * 9 * math.log(2e6))
    assert exact.sums[verifier] > 0


def test_at_temperature_zero_expected_is_what_was_accepted(target):
    session = Session(target, tiny_drafter(target, EagleTree(12, 4, 3)))
    exact, accepted = ExactTau(NO_END, greedy=True), 0
    for step in session.decode(random_ids(9), DecodeOptions(max_new_tokens=40)):
        if step.round is not None:
            exact.add(step.round)
            accepted += step.num_accepted
    assert exact.sums["greedy"] == exact.bound == accepted
