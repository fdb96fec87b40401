"""Additive attention masks and positions for a tree behind a prefix.

    prefix | r a b c        root r with children a and b, c below a
    -------+--------
    r  0 0 | 0 - - -        0: attended, -: the dtype's lowest finite value
    a  0 0 | 0 0 - -
    b  0 0 | 0 - 0 -
    c  0 0 | 0 0 - 0

A boolean mask is right under sdpa and silently wrong under eager attention, so masks are additive everywhere.

Letters: N tree nodes including the root, T prefix length.
"""

import torch
from torch import Tensor


def ancestor_matrix(parents: Tensor) -> Tensor:
    """parents (N,) with parents[0] = -1 and parents[i] < i -> (N, N) bool, entry (i, j): j is i or an ancestor of i."""
    rows = torch.eye(parents.numel(), dtype=torch.bool)
    for node, parent in enumerate(parents.tolist()):
        if parent >= 0:
            rows[node] |= rows[parent]
    return rows.to(parents.device)


def depths(ancestors: Tensor) -> Tensor:
    """(N, N) ancestor matrix -> (N,) int64 depth of every node, the root's is 0."""
    return ancestors.sum(-1) - 1


def tree_mask(
    ancestors: Tensor,
    prefix_length: int,
    dtype: torch.dtype,
    window: int | None = None,
    prefix_start: int = 0,
    chunk: int | None = None,
) -> Tensor:
    """The additive mask (1, 1, N, T + N) of a tree whose every node sees the whole prefix.

    `window`: how many positions a node sees, itself included, in sliding-window layers; None for all.
    `chunk`: a node sees positions of its own block of so many only; None for all.
    `prefix_start`: the position of the prefix's first key (larger than 0 only when older keys are left out).
    """
    num_nodes, device = ancestors.shape[0], ancestors.device
    allowed = torch.cat([ancestors.new_ones(num_nodes, prefix_length), ancestors], dim=1)  # (N, T + N)
    if window is not None or chunk is not None:
        queries = prefix_start + prefix_length + depths(ancestors)  # (N,)
        keys = torch.cat([torch.arange(prefix_start, prefix_start + prefix_length, device=device), queries])
        if window is not None:
            allowed &= queries[:, None] - keys[None] < window
        if chunk is not None:
            allowed &= queries[:, None] // chunk == keys[None] // chunk
    blocked = torch.finfo(dtype).min
    return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill_(~allowed, blocked)[None, None]


def chain_parents(length: int, device: torch.device | None = None) -> Tensor:
    """Parents of a chain of `length` nodes: every node's parent is the node before it. (N,) int64"""
    return torch.arange(-1, length - 1, device=device)
