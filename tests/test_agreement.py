"""Where two texts part, and by how much the target prefers what it said to what was found."""

import math

import pytest
import torch

from eagle.agreement import Parting, chosen_tokens, parting, tie_gap
from eagle.decode import DecodeOptions, autoregressive
from eagle.sampling import Sampling, seeded
from tests.tiny import random_ids, tokens_of


@pytest.mark.parametrize(
    ("expected", "found", "where"),
    [
        ((), (), None),
        ((1, 2), (1, 2), None),
        ((1, 2), (1, 3), Parting(1, 2, 3)),
        ((1, 2), (1,), Parting(1, 2, None)),
        ((), (4,), Parting(0, None, 4)),
    ],
)
def test_the_first_place_where_they_are_not_equal(expected, found, where):
    assert parting(expected, found) == where


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 1.7])
def test_no_token_has_a_gap_below_zero_to_the_one_that_plain_decoding_takes(target, temperature):
    """The gap is of the very numbers that decided: with a wrong key, position or scale another token is better."""
    prompt, sampling = random_ids(9), Sampling(temperature)
    tokens = tokens_of(autoregressive(target, prompt, DecodeOptions(sampling, 12, "coupled"), seeded(5)))
    judged = chosen_tokens(sampling, 5, target)
    for position in (0, 1, 7, 11):
        text = [*prompt, *tokens[:position]]
        gaps = [tie_gap(target, text, judged, tokens[position], other) for other in range(0, target.vocab_size, 5)]
        assert min(gaps) >= 0 < max(gaps)


def test_at_temperature_zero_it_is_the_gap_of_the_logits_and_above_that_of_z_plus_t_g(target):
    ids = random_ids(9)
    logits = target.prefill(torch.tensor(ids), target.new_cache()).logits[0]
    assert tie_gap(target, ids, chosen_tokens(Sampling(), 5, target), 3, 4) == pytest.approx(
        float(logits[3] - logits[4])
    )
    judged = chosen_tokens(Sampling(0.7), 5, target)
    assert judged.field is not None
    noise = judged.field.at(9, torch.tensor([3, 4]))
    expected = float(logits[3] - logits[4]) + 0.7 * float(noise[0] - noise[1])
    assert tie_gap(target, ids, judged, 3, 4) == pytest.approx(expected, abs=1e-5)


def test_a_token_that_top_k_leaves_out_has_no_finite_gap(target):
    ids, judged = random_ids(9), chosen_tokens(Sampling(1.0, top_k=1), 5, target)
    best = int(target.prefill(torch.tensor(ids), target.new_cache()).logits[0].argmax())
    assert not math.isfinite(tie_gap(target, ids, judged, best, (best + 1) % target.vocab_size))
