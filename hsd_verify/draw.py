"""The only random lines: a `Law` and a `torch.Generator` become a node and a token.

Letters: N nodes including the root, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hsd_verify.outcome import Law


def draw(law: Law, generator: torch.Generator | None = None) -> tuple[int, int]:
    """Last accepted node and next token; takes two numbers from `generator` (None: torch's default), always."""
    return draw_at(law, torch.rand(2, dtype=torch.float64, generator=generator, device=law.stop.device))


def draw_at(law: Law, uniforms: Tensor) -> tuple[int, int]:
    """The same at two given numbers in [0, 1), `uniforms` (2,): the first chooses the node, the second the token."""
    node = draw_index(law.stop, uniforms[0])
    return node, draw_index(law.form_residual(node), uniforms[1])


def draw_index(weights: Tensor, uniform: Tensor) -> int:
    """Inverse of the cumulative sum of weights (K,), not necessarily normalised, at a number in [0, 1).

    Index i is returned only if the cumulative sum rises there, so never one of weight 0: the search is for the first
    sum strictly above the threshold, and the threshold is kept strictly below the last sum, which `uniform * total`
    could reach by rounding.
    """
    cumulative = weights.cumsum(-1, dtype=torch.float64)  # (K,)
    total = cumulative[-1]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    threshold = torch.minimum(uniform * total, below_total)
    return int(torch.searchsorted(cumulative, threshold, right=True))
