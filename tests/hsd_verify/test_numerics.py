"""float32 on laws of real size against the float64 reference: bounded distance, no NaN, nothing out of support."""

from __future__ import annotations

import pytest
import torch

import hsd_verify
from tests.hsd_verify.trees import outcome, random_case

# Sums over 128,256 float32 numbers are good to about 1e-6, and a law is a product of a few such ratios: measured
# distances are near 2e-7, so 1e-5 leaves room for other trees without hiding an error in a formula.
FLOAT32_BOUND = 1e-5


def in_float32(tree):
    draft = None if tree.draft_probs is None else tree.draft_probs.float()
    return hsd_verify.DraftTree(tree.parents, tree.tokens, tree.sampled, draft, tree.replacement)


@pytest.mark.parametrize("verifier", ["walk", "tokenwise", "hsd"])
@pytest.mark.parametrize("scale", [0.1, 3.0, 12.0], ids=["flat", "typical", "peaked"])
@pytest.mark.parametrize("vocab", [49_152, 128_256])
def test_float32_stays_close_to_the_reference(vocab, scale, verifier):
    tree, target = random_case(1, 10, vocab, scale=scale)
    reference = outcome(hsd_verify.law(tree, target, verifier))  # (N, V)
    joint = outcome(hsd_verify.law(in_float32(tree), target.float(), verifier))  # (N, V)
    assert not joint.isnan().any()
    assert float((joint.double() - reference).abs().sum()) / 2 < FLOAT32_BOUND


@pytest.mark.parametrize("replacement", [False, True])
def test_no_token_outside_the_support_in_float32(replacement):
    """Laws that were cut to a few tokens, as by top-k, so that nearly all of the vocabulary is forbidden."""
    tree, target = random_case(2, 12, 4096, replacement, scale=5.0)
    cut = target.where(target >= target.topk(20).values[:, -1:], 0)
    cut = (cut / cut.sum(-1, keepdim=True)).float()
    law = hsd_verify.law(in_float32(tree), cut)
    for node in range(tree.num_nodes):
        assert (law.residual(node)[cut[node] == 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("verifier", ["hsd", "block", "hsd_capped", "traversal", "tokenwise"])
def test_a_long_chain_of_tiny_probabilities_does_not_underflow_to_nan(verifier, dtype):
    """Forty tokens the target gives 1e-30 each: their joint probability, 1e-1200, is no double."""
    num_nodes = 41
    target = torch.tensor([1e-30, 0.25, 0.75], dtype=dtype).expand(num_nodes, 3)
    draft = torch.tensor([0.5, 0.5, 0], dtype=dtype).expand(num_nodes, 3)
    parents, tokens = torch.arange(num_nodes) - 1, torch.zeros(num_nodes, dtype=torch.int64)
    law = hsd_verify.law(hsd_verify.DraftTree(parents, tokens, parents >= 0, draft), target, verifier)
    joint = outcome(law)
    assert not joint.isnan().any()
    assert float(joint.sum()) == pytest.approx(1, abs=1e-6)
    assert float(law.stop[0]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("ratio", [1e25, 1e-25])
def test_uncapped_ratios_are_kept_as_logs(ratio):
    """Twenty tokens with p/q = 1e25 reach 1e500 and twenty with 1e-25 reach 1e-500: both outside the doubles."""
    from hsd_verify.published.naive import scan_law

    rare, common = (1e-26, 0.1) if ratio > 1 else (0.1, 1e-26)
    target = torch.tensor([common, 1 - common], dtype=torch.float64).expand(21, 2)
    draft = torch.tensor([rare, 1 - rare], dtype=torch.float64).expand(21, 2)
    parents = torch.arange(21) - 1
    tree = hsd_verify.DraftTree(parents, torch.zeros(21, dtype=torch.int64), parents >= 0, draft)
    joint = outcome(scan_law(tree, target))
    assert not joint.isnan().any()
    assert float(joint.sum()) == pytest.approx(1, abs=1e-12)


def test_equal_laws_up_to_rounding_accept_everything():
    """p = q up to the last bits leaves a residual of rounding noise; the draft must be accepted all the same."""
    tree, _ = random_case(4, 8, 1000)
    chain = torch.arange(8) - 1
    target = tree.draft_probs
    rows = torch.where(target.sum(-1, keepdim=True) > 0, target, 1 / 1000)
    tokens = torch.cat([torch.zeros(1, dtype=torch.int64), rows[:-1].argmax(-1)])
    tree = hsd_verify.DraftTree(chain, tokens, chain >= 0, rows.float())
    law = hsd_verify.law(tree, (rows.float() * (1 + 1e-7)).float())
    assert law.expected_tau == pytest.approx(7, abs=1e-5)
