"""A target whose last layers lie on another device than its first: features, masks and caches follow their layers.

The other device is pretended (`tests.engine.pretend`): no machine here has two.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.lookup import LookupDrafter
from eagle.drafters.protocol import Drafter
from eagle.engine.target import Target
from eagle.sampling import Sampling, seeded
from eagle.trees import EagleTree, sampled
from tests.engine.pretend import DEVICE, Pretended, moved, pretending
from tests.tiny import random_ids, tiny_drafter, tiny_target, tokens_of

FIRST_THERE = 5  # of nine layers; features are the inputs of 2, 4 and 6


def brought(value: Any, device: torch.device | str) -> Any:
    """A nest of arguments with its tensors on a device, as accelerate's hooks bring them."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(brought(part, device) for part in value)
    return {name: brought(part, device) for name, part in value.items()} if isinstance(value, dict) else value


def place(module: nn.Module, device: torch.device | str) -> None:
    """Let a module run where it is told to, whatever it is given."""
    if device == DEVICE:
        moved(module)

    def bring(_module: nn.Module, args: Any, kwargs: Any) -> Any:
        return brought(args, device), brought(kwargs, device)

    module.register_forward_pre_hook(bring, with_kwargs=True)


def spread_target() -> Target:
    target = tiny_target(attention="eager")
    for layer in target.layers[FIRST_THERE:]:
        place(layer, DEVICE)
    for module in (target.model.get_decoder().norm, target.model.get_output_embeddings()):
        place(module, "cpu")
    return target


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (None, DecodeOptions(max_new_tokens=24)),
        (EagleTree(), DecodeOptions(max_new_tokens=24)),
        (EagleTree(), DecodeOptions(Sampling(1.0), 24, "coupled")),
        (sampled(8, depth=4, max_sampled=3), DecodeOptions(Sampling(1.0), 24, "hsd")),
    ],
    ids=["lookup", "greedy", "coupled", "hsd"],
)
def test_a_spread_target_drafts_the_text_of_the_whole_one(policy, options):
    whole, ids = tiny_target(attention="eager"), random_ids(12)

    def drafter() -> Drafter:
        return tiny_drafter(whole, policy) if policy else LookupDrafter(most=2, least=1)

    expected = tokens_of(Session(whole, drafter()).decode(ids, options, seeded(5)))
    if options.verifier != "hsd":  # there another draw of the same law
        assert expected == tokens_of(autoregressive(whole, ids, options, seeded(5)))
    with pretending():
        target = spread_target()
        session = Session(target, drafter())
        steps = list(session.decode(ids, options, seeded(5)))
        caches = [layer.keys for layer in session.cache._layers]  # type: ignore[attr-defined]
    assert tokens_of(steps) == expected
    assert policy or sum(step.num_accepted for step in steps) > 0  # drafts of a random head are never right
    assert [isinstance(keys, Pretended) for keys in caches] == [number >= FIRST_THERE for number in range(9)]


def test_features_are_gathered_from_the_devices_of_their_layers():
    whole, ids = tiny_target(attention="eager"), torch.tensor(random_ids(12))
    with pretending():
        target = spread_target()
        found = target.prefill(ids, target.new_cache())
        assert target.device.type == "cpu" and not isinstance(found.features, Pretended)
    expected = whole.prefill(ids, whole.new_cache())
    assert torch.equal(found.features, expected.features) and torch.equal(found.logits, expected.logits)
