"""Logits -> laws."""

import pytest
import torch

from eagle.sampling import Sampling, drawn_token, seeded

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 3.0, 0.0]])


def test_temperature_zero_is_one_hot_and_not_a_limit():
    """Probabilities left as a softmax at a tiny temperature keep acceptance random."""
    assert Sampling().law(LOGITS).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_logits_are_settled_by_the_lower_id_whatever_the_width(dtype):
    """bf16 has few values: ties at the top are common, and every path must settle them alike."""
    logits = torch.zeros(3, 1000, dtype=dtype)
    logits[0, 700:] = logits[1, [17, 900]] = 1.0
    assert Sampling().law(logits).argmax(-1).tolist() == [700, 17, 0]
    assert Sampling().law(logits[0]).argmax() == 700


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_promoted_before_the_softmax(dtype):
    law = Sampling(temperature=1.0).law(LOGITS.to(dtype))
    assert law.dtype == torch.float32
    assert torch.equal(law, LOGITS.to(dtype).float().softmax(-1))


def test_double_precision_stays():
    assert Sampling(temperature=1.0).law(LOGITS.double()).dtype == torch.float64


def test_top_k_keeps_the_k_largest():
    law = Sampling(temperature=1.0, top_k=2).law(LOGITS[0])
    assert law[2:].tolist() == [0, 0]
    torch.testing.assert_close(law[0] / law[1], torch.tensor(2.718281828))  # ratios among the kept do not change


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, 1), (0.7, 2), (0.9, 3), (0.99, 4)])
def test_top_p_keeps_the_smallest_set_with_enough_mass(top_p, kept):
    """The softmax of (2, 1, 0, -1) is 0.644, 0.237, 0.087, 0.032."""
    law = Sampling(temperature=1.0, top_p=top_p).law(LOGITS[0])
    assert int((law > 0).sum()) == kept
    torch.testing.assert_close(law.sum(), torch.tensor(1.0))


def test_laws_agree_with_transformers_warpers():
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(5, 50)
    expected = logits
    for warp in (TemperatureLogitsWarper(0.7), TopKLogitsWarper(20), TopPLogitsWarper(0.8)):
        expected = warp(None, expected)
    law = Sampling(temperature=0.7, top_k=20, top_p=0.8).law(logits)
    torch.testing.assert_close(law, expected.softmax(-1))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -0.5, "temperature is -0.5"),
        ("temperature", float("nan"), "temperature is nan"),
        ("top_k", -1, "top_k is -1"),
        ("top_p", 0.0, "top_p is 0.0, it must lie in"),
    ],
)
def test_values_out_of_range_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**{field: value})


def test_draws_follow_the_generator_and_the_support():
    law = torch.tensor([0.0, 0.5, 0.0, 0.5])
    drawn = [[drawn_token(law, generator) for _ in range(50)] for generator in (seeded(1), seeded(1))]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {1, 3}


@pytest.mark.parametrize("temperature", [1e-4, 1e-40, 1e-300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_very_cold_laws_are_laws(temperature, dtype):
    """Logits divided by 1e-300 are infinite: the law was nan, and drawing ended in an IndexError."""
    logits = torch.tensor([[3.0, 90.0, -torch.inf, 89.0], [0.0, 0.0, -1.0, 0.0]], dtype=dtype)
    law = Sampling(temperature).law(logits)
    torch.testing.assert_close(law, torch.tensor([[0.0, 1.0, 0.0, 0.0], [1 / 3, 1 / 3, 0.0, 1 / 3]]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": float("inf")}, "temperature is inf, it must be 0"),
        ({"temperature": 1e308}, r"temperature is 1e\+308, .* at most 1e\+06"),
        ({"top_k": 2.5}, "top_k is 2.5, it must be a whole number"),
    ],
)
def test_numbers_that_make_no_law_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**fields)


def test_seeds_beyond_64_bits_are_named():
    with pytest.raises(ValueError, match=r"seed is 1000000000000000000000, it must lie in"):
        seeded(10**21)
