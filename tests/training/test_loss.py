"""The fused losses against autograd, and what each of them means."""

import pytest
import torch

from eagle.training import loss
from eagle.training.loss import Laws, LossWeights, fused_loss, reference_loss
from eagle.training.signals import LawStates
from eagle.training.target_snapshot import OutputLayer

P, J, H, V, VD = 20, 3, 16, 50, 30
WEIGHTS = [
    LossWeights(1),
    LossWeights(0, kl=1),
    LossWeights(0, total_variation=1),
    LossWeights(0, log_overlap=1),
    LossWeights(0.3, 0.2, 0.1, 0.7),
]


def problem(dtype=torch.float64, softcap=None):
    output = OutputLayer(torch.randn(V, H, dtype=dtype), softcap=softcap)
    states = torch.randn(P, H, dtype=dtype)
    ids = torch.randperm(V)[:VD].sort().values
    laws = Laws(LawStates(states, *output.summary(states)), output.restricted(ids))
    scale = torch.rand(P, J, dtype=dtype)
    scale[:3, 0] = 0
    rows = torch.randn(P, J, H, dtype=dtype, requires_grad=True)
    weight = torch.randn(VD, H, dtype=dtype, requires_grad=True)
    return rows, weight, laws, scale, output(states).softmax(-1)[:, ids]


@pytest.mark.parametrize("terms", WEIGHTS)
def test_values_and_gradients_equal_autograd(terms, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_POSITIONS", 4)
    monkeypatch.setattr(loss, "BLOCK_POSITIONS", 11)  # two blocks of three chunks, the last of each short
    rows, weight, laws, scale, _ = problem()
    fused, reference = (f(rows, weight, laws, scale, terms) for f in (fused_loss, reference_loss))
    gradients = [torch.autograd.grad(x.total * 0.5, (rows, weight)) for x in (fused, reference)]
    for found, expected in [*zip(fused, reference, strict=True), *zip(*gradients, strict=True)]:
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_the_targets_law_is_normalised_over_the_whole_vocabulary(softcap):
    """An acceptance computed with p renormalised on the draft vocabulary promises more than decoding delivers."""
    _, _, laws, _, expected = problem(softcap=softcap)
    torch.testing.assert_close(laws.chunk(slice(None)), expected, rtol=1e-10, atol=1e-12)


def test_overlap_is_the_acceptance_of_a_sampled_child():
    rows, weight, laws, scale, p = problem()
    q = (rows @ weight.T).softmax(-1)
    expected = (torch.minimum(p[:, None], q).sum(-1) * (scale > 0)).sum(0)
    found = fused_loss(rows, weight, laws, scale, LossWeights(0, total_variation=1))
    torch.testing.assert_close(found.overlap, expected)
    torch.testing.assert_close(found.loss, (scale > 0).sum(0) - expected)


def test_positions_without_weight_take_no_part():
    """Trap: a loss averaged over padding. What stands at a position of scale 0 changes neither sum nor count."""
    rows, weight, laws, scale, _ = problem()
    scale[5:] = 0
    before = fused_loss(rows, weight, laws, scale, LossWeights(1, 0, 0, 1))
    changed = rows.detach().clone()
    changed[5:] = 1e3
    after = fused_loss(changed, weight, laws, scale, LossWeights(1, 0, 0, 1))
    assert after.positions.tolist() == [2, 5, 5]
    torch.testing.assert_close(before.total, after.total)
    torch.testing.assert_close(before.loss, after.loss)


def test_half_precision_gradients_point_the_same_way():
    """bf16 products: relative error of a gradient entry about 2^-8, so the cosine with the exact one stays near 1."""
    rows, weight, laws, scale, _ = problem()
    exact = torch.autograd.grad(reference_loss(rows, weight, laws, scale, LossWeights()).total, weight)[0]
    half = Laws(LawStates(laws.states.states.bfloat16(), laws.states.log_normaliser.float(), laws.states.best),
                OutputLayer(laws.output.weight.bfloat16()))  # fmt: skip
    short, master = rows.detach().bfloat16(), weight.detach().float().requires_grad_()
    found = torch.autograd.grad(fused_loss(short, master, half, scale.float(), LossWeights()).total, master)[0]
    assert torch.cosine_similarity(found.flatten().double(), exact.flatten(), dim=0) > 0.995


@pytest.mark.parametrize("values", [(0, 0, 0, 0), (-1, 1, 0, 0)])
def test_weights_without_a_loss_are_refused(values):
    with pytest.raises(ValueError, match="none may be negative, one must be larger than 0"):
        LossWeights(*values)
