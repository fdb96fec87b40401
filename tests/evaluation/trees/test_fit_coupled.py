"""The sharpness of a head's perturbed order, by the likelihood of what the target takes."""

import pytest
import torch

from eagle.sampling import Sampling, seeded
from eagle.trees import CoupledValues
from evaluation.trees.contexts import HELD_OUT, Context
from evaluation.trees.fit_coupled import SharpnessSums, add_contexts
from evaluation.trees.shared import HeadSource
from tests.tiny import random_ids, tiny_head


def gumbel(draws: torch.Generator, *shape: int) -> torch.Tensor:
    return -torch.empty(shape).exponential_(generator=draws).log()


def test_the_sharpness_behind_the_tokens_is_found():
    """The target's logits are the draft's and Gumbel noise of scale 1 / sharpness, so the values are its exact law.

    20,000 tokens; neighbours on the grid lie more than five standard errors of the fitted sharpness away.
    """
    draws, sums, sharpness, temperature = seeded(0), SharpnessSums(plain=0.0), 1.6, 0.7
    for _ in range(20_000):
        draft, noise, error = 2 * torch.randn(12, generator=draws), gumbel(draws, 12), gumbel(draws, 12)
        token = int((draft + error / sharpness + temperature * noise).argmax())
        sums.add(draft, token, noise, temperature)
    assert sums.most_likely == sharpness and sums.fitted() == {
        "coupled": CoupledValues(1.12, 0.0),
        "deep": CoupledValues(1.6, 0.0),
    }


def test_without_a_token_nothing_is_fitted():
    with pytest.raises(ValueError, match="record contexts above temperature 0"):
        SharpnessSums().fitted()


def test_every_context_adds_tokens_of_the_target(target):
    contexts = [Context(f"{HELD_OUT}/q/1/{n}", HELD_OUT, "q", 1.0, tuple(random_ids(12, seed=n))) for n in range(3)]
    sums = SharpnessSums()
    source = HeadSource(tiny_head(target), target)
    assert list(add_contexts(sums, target, source, contexts, Sampling(1.0))) == contexts
    first = sums.fitted()
    assert 0 < sums.num_tokens <= 4 * 7 * len(contexts)  # some lie outside the draft's vocabulary
    again = SharpnessSums()
    assert list(add_contexts(again, target, source, contexts, Sampling(1.0))) == contexts
    assert (again.fitted(), again.num_tokens) == (first, sums.num_tokens)
