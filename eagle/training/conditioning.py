"""A better conditioned fusion: every input dimension of `fc` weighs about the same to the optimizer.

Some dimensions of a target's features are hundreds of times larger than others (massive activations: in SmolLM2-135M
the median dimension of the high feature has a size of 14, the largest 2000). Adam moves every weight by about the
learning rate, so an `fc` that reads them directly is steered by a handful of dimensions and drowns the rest. Here the
optimizer sees `fc.weight * scale`, as if each feature had been divided by its usual size. The function the head
computes, and the checkpoint, stay what they were.

Letters: H draft hidden size, F = 3Ht width of the features.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from eagle.drafters.head import DraftHead
from eagle.vocab import DraftVocabulary

SMALLEST_SCALE = 1e-3
ORIGINAL, SCALE = (f"fc.parametrizations.weight.{name}" for name in ("original", "0.scale"))  # in a state


class _PerInputScale(nn.Module):
    """weight = original / scale, column by column."""

    scale: Tensor

    def __init__(self, scale: Tensor):
        super().__init__()
        self.register_buffer("scale", scale)  # (F,), saved with the run so that resuming continues the same problem

    def forward(self, original: Tensor) -> Tensor:
        return original / self.scale

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight * self.scale


def usual_size(features: Tensor) -> Tensor:
    """The median absolute value of each dimension, (tokens, F) -> (F,): a few enormous tokens do not count."""
    return features.float().abs().median(dim=0).values.clamp_min(SMALLEST_SCALE)


def condition(head: DraftHead, scale: Tensor) -> None:
    """Make the optimizer see the fusion's weight times `scale` (F,); what the head computes does not change."""
    parametrize.register_parametrization(head.fc, "weight", _PerInputScale(scale))


def unconditioned(head: DraftHead, state: Mapping[str, Tensor] | None = None) -> DraftHead:
    """A head with plain weights, for export: of `state`, the whole state of `head` where `head` itself holds shards."""
    # not deepcopy: copies share the parametrized class, and removing it from one breaks the other
    state = dict(head.state_dict() if state is None else state)
    if ORIGINAL in state:
        state["fc.weight"] = state.pop(ORIGINAL) / state.pop(SCALE)
    plain = DraftHead(head.config, DraftVocabulary(state["d2t"], state["t2d"]))
    plain.load_state_dict(state)
    return plain.to(state["fc.weight"].device)


@torch.no_grad()
def unit_hidden(head: DraftHead, scale: Tensor) -> None:
    """Shrink a fresh fusion so that its hidden states have a size near 1, as the fresh layer's own output has.

    Otherwise the residual stream carries a feature of size 20 to which attention and MLP add a whisper.
    """
    head.fc.weight.div_(scale)
