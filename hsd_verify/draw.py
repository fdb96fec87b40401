"""The only random lines: a `Law` and a `torch.Generator` become a node and a token.

Letters: N nodes including the root, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hsd_verify.outcome import Law
from hsd_verify.tree import DraftTree


def draw(law: Law, generator: torch.Generator | None = None) -> tuple[int, int]:
    """Last accepted node and next token; takes N + 1 numbers from `generator` (None: torch's default), always."""
    return draw_at(law, take_uniforms(law.tree, law.stop.device, generator))


def take_uniforms(tree: DraftTree, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """(N + 1,) float64 numbers in [0, 1): one for every node and one for the token."""
    return torch.rand(tree.num_nodes + 1, dtype=torch.float64, generator=generator, device=device)


def draw_at(law: Law, uniforms: Tensor) -> tuple[int, int]:
    """The same at given numbers, `uniforms` (N + 1,).

    Nodes are asked in post-order, and the first one whose number is below its share `stop[v] / later[v]` of what is
    left ends the verdict, `later[v]` being the stop probability of v and of all nodes after it. A number a node, as in
    Block Verification, rather than the inverse of one cumulative sum: so nodes can be asked one by one (`lazy.py`).
    The last node with a positive probability has share 1, and a node of probability 0 is never returned.
    """
    order = torch.tensor(law.tree.post_order, device=law.stop.device)  # (N,)
    stop = law.stop[order].double()  # (N,)
    later = stop.flip(0).cumsum(0).flip(0)  # (N,)
    node = int(order[(uniforms[order] * later < stop).int().argmax()])
    return node, draw_index(law.form_residual(node), uniforms[-1])


def draw_index(weights: Tensor, uniform: Tensor) -> int:
    """Inverse of the cumulative sum of weights (K,), not necessarily normalised, at a number in [0, 1).

    See `draw_indices`.
    """
    return int(draw_indices(weights, uniform))


def draw_indices(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The same for rows: weights (.., K) and numbers (..) in [0, 1) -> indices (..), each row by itself.

    Index i is returned only if the cumulative sum rises there, so never one of weight 0: the search is for the first
    sum strictly above the threshold, and the threshold is kept strictly below the last sum, which `uniform * total`
    could reach by rounding.
    """
    cumulative = weights.cumsum(-1, dtype=torch.float64)  # (.., K)
    total = cumulative[..., -1]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    threshold = torch.minimum(uniforms * total, below_total)
    return torch.searchsorted(cumulative, threshold[..., None], right=True)[..., 0]
