"""The only random lines: a `Law` and a `torch.Generator` become a `Verdict`.

Letters: N nodes including the root, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hsd_verify.outcome import Law, Verdict


def draw(law: Law, generator: torch.Generator | None = None) -> Verdict:
    """One verdict; two uniform numbers are taken from `generator` (None: torch's default), whatever the law."""
    device = law.stop.device
    return draw_at(law, torch.rand(2, dtype=torch.float64, generator=generator, device=device))


def draw_at(law: Law, uniforms: Tensor) -> Verdict:
    """The verdict at two given numbers in [0, 1), `uniforms` (2,): the first chooses the node, the second the token."""
    node = draw_index(law.stop, uniforms[0])
    token = draw_index(law.form_residual(node), uniforms[1])
    return Verdict(torch.tensor(law.tree.path(node), dtype=torch.int64, device=law.stop.device), token)


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
