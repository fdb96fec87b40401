"""The fast attention of the training-time test against its written-out definition."""

import pytest
import torch

from eagle.training.attention import StepAttention, fast_attention, reference_attention

B, T, D = 2, 37, 16
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5}  # sums of some 40 terms in another order


def inputs(dtype, heads=6, kv_heads=2, steps=4):
    make = lambda count: torch.randn(B, count, T, D, dtype=dtype, requires_grad=True)  # noqa: E731
    return make(heads), [make(kv_heads) for _ in range(steps)], [make(kv_heads) for _ in range(steps)]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("kv_heads", [2, 6])
def test_values_and_gradients_equal_the_definition(dtype, steps, kv_heads):
    query, keys, values = inputs(dtype, kv_heads=kv_heads, steps=steps)
    slow, fast = (attention(query, keys, values) for attention in (reference_attention, fast_attention))
    grad, leaves = torch.randn_like(slow), [query, *keys, *values]
    pairs = zip(torch.autograd.grad(slow, leaves, grad), torch.autograd.grad(fast, leaves, grad), strict=True)
    for expected, found in [(slow, fast), *pairs]:
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCES[dtype])


def test_half_precision_is_as_close_as_its_rounding():
    """bf16 keeps 8 bits: outputs of size about 1 may differ by a few times 2^-8."""
    query, keys, values = inputs(torch.bfloat16)
    exact = reference_attention(query.double(), [k.double() for k in keys], [v.double() for v in values])
    assert (fast_attention(query, keys, values).double() - exact).abs().max() < 8 * 2**-8


def test_a_later_step_sees_its_own_index_only():
    """Keys are not shifted although tokens are: public code that shifted the mask too let steps see the future.

    Changing step 1's key at index 9 may change outputs at index 9 and nowhere else; step 0's reach all later ones.
    """
    query, keys, values = inputs(torch.float64, steps=2)
    before = fast_attention(query, keys, values)
    for step, changed in ((1, [9]), (0, list(range(9, T)))):
        other = [key.detach().clone() for key in keys]
        other[step][:, :, 9] += 1
        moved = (fast_attention(query, other, values) - before).abs().amax((0, 1, 3)) > 1e-12
        assert moved.nonzero().flatten().tolist() == changed


def test_a_step_does_not_change_the_past_it_was_given():
    query, keys, values = inputs(torch.float32, steps=3)
    attend = StepAttention((*keys[:2], *values[:2]))
    attend(query, keys[2], values[2])
    assert len(attend.keys) == 3 and StepAttention((*keys[:2], *values[:2])).keys == keys[:2]


def test_memory_is_linear_in_length():
    """No tensor of (T, T) is saved for the backward pass."""
    query, keys, values = inputs(torch.float32)
    sizes: list[int] = []

    def remember(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        fast_attention(query, keys, values)
    assert max(sizes) == query.numel() < B * 6 * T * T
