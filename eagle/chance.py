"""What may be random in a round, as one value: how tokens are drawn, and the noise that draft and target may share.

Letters: F rows of one random call, Vd draft vocabulary, n tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eagle.noise import NoiseField
from eagle.sampling import Sampling
from hsd_verify.draw import draw_indices

Draw = Callable[[Tensor, torch.Generator | None], Tensor]
"""Weights (F, Vd), not necessarily normalised -> one draft id a row, (F,), rows independent.

The only random call of a policy: who lists every branch passes another one."""


def draw_rows(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One id a row (F,) from weights (F, Vd) that need not sum to 1. Never an id of weight 0.

    One uniform number a row instead of one a token, which matters for Vd in the thousands.
    """
    uniforms = torch.rand(len(weights), dtype=torch.float64, generator=generator, device=weights.device)
    return draw_indices(weights, uniforms)


@dataclass(frozen=True)
class Noise:
    """The field of an answer as a round sees it: by depth below the round's root."""

    field: NoiseField
    position: int  # in the sequence, of the token that follows the root

    def below(self, depth: int, tokens: Tensor) -> Tensor:
        """Gumbel numbers of the tokens (n,) that may follow a node `depth` levels below the root: (n,) float32."""
        return self.field.draft_row(self.position + depth, tokens)


@dataclass(frozen=True)
class Chance:
    """The randomness of one round's draft.

    With `noise` the target's own tokens below the root are settled: whatever a tree does with it is lossless where the
    verdict is coupled, and wrong under any rule that accepts and rejects.
    """

    sampling: Sampling
    generator: torch.Generator | None = None  # of what is drawn independently of the target's tokens
    draw: Draw = draw_rows
    noise: Noise | None = None  # None: the target's tokens are independent of the draft's
