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

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eagle.engine.shape import CHUNKED, FULL, SLIDING, AttentionShape


def ancestor_matrix(parents: Sequence[int]) -> Tensor:
    """parents (N) with parents[0] = -1 and parents[i] < i -> (N, N) bool, entry (i, j): j is i or an ancestor of i.

    On the host, as the parents.
    """
    rows: list[bytearray] = []
    for node, parent in enumerate(parents):
        row = rows[parent][:] if parent >= 0 else bytearray(len(parents))
        row[node] = 1
        rows.append(row)
    return torch.frombuffer(bytearray().join(rows), dtype=torch.bool).view(len(parents), -1)


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
    queries = prefix_start + prefix_length + depths(ancestors)  # (N,)
    keys = torch.cat([torch.arange(prefix_start, prefix_start + prefix_length, device=device), queries])
    return additive(allowed & in_sight(queries[:, None], keys, window, chunk), dtype)[None, None]


def in_sight(queries: Tensor, keys: Tensor, window: int | None = None, chunk: int | None = None) -> Tensor:
    """Whether layers that look back over `window` positions, or to the start of their `chunk`, see keys from queries.

    Positions of both, shapes that broadcast -> bool.
    """
    seen = torch.ones((), dtype=torch.bool, device=queries.device)
    if window is not None:
        seen = queries - keys < window
    return seen if chunk is None else seen & (queries // chunk == keys // chunk)


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool -> 0 where allowed, else the dtype's lowest finite value."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


def by_kind(shape: AttentionShape, make: Callable[..., Tensor]) -> Tensor | dict[str, Tensor]:
    """The mask that `make(window=.., chunk=..)` makes, or one for each kind of layer where a model mixes kinds."""
    limited = {}
    if shape.sliding_window is not None:
        limited[SLIDING] = make(window=shape.sliding_window)
    if shape.chunk is not None:
        limited[CHUNKED] = make(chunk=shape.chunk)
    if shape.has_full_layers or len(limited) > 1:
        return {FULL: make(), **limited} if limited else make()
    return next(iter(limited.values()))


def chain_parents(length: int) -> range:
    """Parents of a chain of `length` nodes: every node's parent is the node before it."""
    return range(-1, length - 1)
