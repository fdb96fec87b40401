"""Laws that must coincide, and bounds that no verifier may cross: exact, on every tree a process can draft.

1e-12 is float64 rounding times the few dozen operations of a law, with room to spare.
"""

from __future__ import annotations

import pytest
import torch

import hsd_verify
from hsd_verify.exact import enumerate as exact
from hsd_verify.exact.reference import reference_law
from tests.hsd_verify.models import random_model
from tests.hsd_verify.processes import LAWS, PROCESSES

EXACT = 1e-12


def outcome(law):
    """Joint law (N, V) of where a verifier stops and what it adds."""
    return torch.stack([stop * law.residual(v) for v, stop in enumerate(law.stop)])


def assert_same_law(drafting, target, verifier, other):
    for _, tree in drafting(()):
        rows = exact.target_rows(tree, target)
        first, second = hsd_verify.law(tree, rows, verifier), hsd_verify.law(tree, rows, other)
        assert torch.allclose(outcome(first), outcome(second), rtol=0, atol=EXACT)


@pytest.mark.parametrize("laws", LAWS)
@pytest.mark.parametrize("other", ["block", "hsd_capped", "traversal", "hsd_multidraft"])
def test_on_a_chain_the_recursion_is_block_capped_hsd_and_traversal(other, laws):
    target, draft = LAWS[laws]
    assert_same_law(PROCESSES["chain"](draft), target, "hsd", other)


@pytest.mark.parametrize("laws", LAWS)
@pytest.mark.parametrize("process", ["without-replacement", "exhausted"])
def test_without_replacement_the_recursion_is_traversal(process, laws):
    target, draft = LAWS[laws]
    assert_same_law(PROCESSES[process](draft), target, "hsd", "traversal")


@pytest.mark.parametrize("laws", LAWS)
@pytest.mark.parametrize("other", ["walk", "tokenwise"])
@pytest.mark.parametrize("process", ["deterministic", "exhausted-placed"])
def test_on_a_deterministic_tree_every_verifier_is_the_walk(process, other, laws):
    target, draft = LAWS[laws]
    assert_same_law(PROCESSES[process](draft), target, "hsd", other)


@pytest.mark.parametrize("laws", LAWS)
@pytest.mark.parametrize("process", PROCESSES)
def test_the_vectorised_recursion_is_the_textbook_one(process, laws):
    target, draft = LAWS[laws]
    for _, tree in list(PROCESSES[process](draft)(()))[:40]:
        rows = exact.target_rows(tree, target)
        law, reference = hsd_verify.law(tree, rows, "hsd"), reference_law(tree, rows)
        joint = [[s * r for r in row] for s, row in zip(reference.stop, reference.residual, strict=True)]
        assert torch.allclose(outcome(law), torch.tensor(joint, dtype=torch.float64), rtol=0, atol=EXACT)
        assert law.stop.tolist() == pytest.approx(reference.stop, rel=0, abs=EXACT)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("placed", [1, 2])
def test_sampled_first_beside_placed_children_is_the_closed_form_of_univer(placed, seed):
    """UniVer (arXiv 2605.04543), one node: `P(S) + sum_{x not in S} min(p, q~)` accepted, the most there can be."""
    target, draft = random_model(5, seed), random_model(5, 50 + seed)
    p, q = target(()), draft(()).clone()
    kept = q.topk(placed).indices
    q[kept] = 0
    outside = torch.ones_like(q).index_fill(0, kept, 0)
    closed_form = p[kept].sum() + (outside * torch.minimum(p, q / q.sum())).sum()
    tau = exact.expected_tau(exact.hybrid(draft, placed, 1, 1), target, "hsd")
    assert tau == pytest.approx(float(closed_form), rel=0, abs=EXACT)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_on_a_deterministic_tree_every_node_is_accepted_with_its_target_probability(depth, seed):
    target = random_model(4, seed)
    ((_, tree),) = exact.deterministic(random_model(4, 60 + seed), 2, depth)(())
    reach = hsd_verify.law(tree, exact.target_rows(tree, target)).reach
    joint = [path_prob(target, tree.path_tokens(v)) for v in range(tree.num_nodes)]
    assert reach.tolist() == pytest.approx(joint, rel=0, abs=EXACT)


@pytest.mark.parametrize("laws", ["random-3", "random-4", "peaked-3", "equal", "zero-mass", "tiny"])
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("verifier", ["walk", "tokenwise", "hsd"])
def test_no_method_accepts_more_than_the_bound(verifier, process, laws):
    """`E[tau] <= sum_u min(p(u), Pr[u in tree])` over texts u; met with equality on deterministic trees."""
    target, draft = LAWS[laws]
    drafting = PROCESSES[process](draft)
    present: dict[tuple, float] = {}
    for prob, tree in drafting(()):
        for text in {tree.path_tokens(v) for v in range(1, tree.num_nodes)}:
            present[text] = present.get(text, 0.0) + prob
    bound = sum(min(path_prob(target, text), prob) for text, prob in present.items())
    tau = exact.expected_tau(drafting, target, verifier)
    assert tau <= bound + EXACT
    if "deterministic" in process or process == "exhausted-placed":
        assert tau == pytest.approx(bound, rel=0, abs=EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_joint_verification_never_accepts_less_than_token_wise_on_a_chain(seed):
    target, drafting = random_model(3, seed), exact.chain(random_model(3, 70 + seed), 3)
    block, tokenwise = (exact.expected_tau(drafting, target, m) for m in ("hsd", "tokenwise"))
    assert block > tokenwise


def test_multidraft_accepts_more_than_the_recursion_on_iid_paths():
    target, drafting = random_model(3, 5), exact.paths(random_model(3, 75), 2, 2)
    multidraft, recursion = (exact.expected_tau(drafting, target, m) for m in ("hsd_multidraft", "hsd"))
    assert multidraft > recursion


def path_prob(target, text):
    """Joint target probability of a text."""
    prob = 1.0
    for i, token in enumerate(text):
        prob *= float(target(text[:i])[token])
    return prob
