"""What the target tells about a batch: features, embeddings, and its laws where a loss is formed.

`OnlineSignals` runs the target beside the head; `eagle.training.offline` reads what was written before. Both hand out
unshifted tensors: shifting has one home, `eagle.training.steps`.

Letters: B batch, T positions, H target hidden size, P positions with a loss.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from eagle.target import Target
from eagle.training.batches import Batch


class Signals(NamedTuple):
    features: Tensor  # (B, T, 3H)
    embeddings: Tensor  # (B, T, H)
    states: Tensor  # (P, H) final states of the target at the positions asked for; `unembed` gives their logits


class SignalSource(Protocol):
    def read(self, batch: Batch, at: Tensor) -> Signals:
        """Signals of a batch, with final states at the positions `at` (B, T) bool."""
        ...

    def unembed(self, states: Tensor) -> Tensor:
        """Final states (..., H) -> the target's logits (..., V)."""
        ...


class OnlineSignals:
    """The target in the loop, in its own dtype and on its own device. Raises ValueError for unusual output layers."""

    def __init__(self, target: Target):
        self._target = target
        check_unembed(target)

    @torch.no_grad()
    def read(self, batch: Batch, at: Tensor) -> Signals:
        features, states = self._target.read_states(batch.ids)
        return Signals(features, self._target.embed(batch.ids), states[at])

    def unembed(self, states: Tensor) -> Tensor:
        return self._target.unembed(states)


def check_unembed(target: Target) -> None:
    """Raises ValueError when the model does more to its logits than `Target.unembed` knows."""
    ids = torch.arange(min(8, target.vocab_size), device=target.device)[None]
    _, states = target.read_states(ids)
    ours, theirs = target.unembed(states).float(), target.read(ids).logits.float()
    if not torch.allclose(ours, theirs, rtol=0.02, atol=0.02 * float(theirs.abs().max())):
        difference = float((ours - theirs).abs().max())
        raise ValueError(
            f"{target.name} changes its logits after the output layer (by up to {difference:.3g}): "
            "teach eagle.target.Target.unembed this architecture before training a head for it"
        )
