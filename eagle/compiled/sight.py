"""What the nodes of trees see of caches, as `eagle.kernels` reads it: small, whatever the prefixes' lengths.

    prefix 0 .. 5 | r a b c      r   0 6 6 6 0   1 - - -     0: the first entry of its prefix that it sees
                                 a   0 6 6 7 0   1 1 - -     6: the prefix's end
                                 b   0 6 6 8 0   1 - 1 -     6: the entry of the first column
                                 c   0 6 6 9 0   1 1 - 1     its own entry, its sequence; then which columns it sees

Entries of a prefix lie at their positions, so a sliding window or a chunk is a first entry. Trees of several sequences,
each behind a cache of its own, have their columns side by side:

    prefix 0 .. 8 | r a          r   0 9 5 9 1    - - - - 1 -
                                 a   0 9 5 10 1   - - - - 1 1

Letters: B sequences, N nodes of a tree including the root, M nodes of all trees, C capacity of a cache, d head size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from eagle.engine import masks
from eagle.engine.shape import AttentionShape

HEADER = 5  # numbers before the columns
LEAST = 2  # nodes of a pass: a tracer takes a size of one for a constant


def sights(ancestors: Sequence[Tensor], lengths: Sequence[int], shape: AttentionShape) -> Tensor | dict[str, Tensor]:
    """B of (N, N) bool behind `lengths` committed entries -> (1, 1, M, 5 + M) int32, or one for each kind of layer."""
    sizes = [len(own) for own in ancestors]
    befores = [sum(sizes[:number]) for number in range(len(sizes))]

    def make(window: int | None = None, chunk: int | None = None) -> Tensor:
        parts = []
        for number, (own, length, before) in enumerate(zip(ancestors, lengths, befores, strict=True)):
            header, seen = _header(own, length, window, chunk), _seen(own, length, window, chunk)
            header[:, 2] -= before
            header[:, 4] = number
            parts.append(torch.cat([header, pad(seen, (before, sum(sizes) - before - len(own)))], dim=1))
        return torch.cat(parts).int()[None, None]

    return masks.by_kind(shape, make)


def _header(ancestors: Tensor, length: int, window: int | None, chunk: int | None) -> Tensor:
    """(N, 5), of a first sequence."""
    positions = length + masks.depths(ancestors)  # (N,)
    first = torch.zeros_like(positions)
    if window is not None:
        first = positions - window + 1
    if chunk is not None:
        first = torch.maximum(first, positions // chunk * chunk)
    end = torch.full_like(positions, length)
    places = length + torch.arange(len(ancestors), device=ancestors.device)
    return torch.stack([first.clamp(0, length), end, end, places, torch.zeros_like(end)], dim=1)


def _seen(ancestors: Tensor, length: int, window: int | None, chunk: int | None) -> Tensor:
    """(N, N), which of its own tree a node sees."""
    positions = length + masks.depths(ancestors)
    return (ancestors & masks.in_sight(positions[:, None], positions, window, chunk)).long()


def table(caches: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> Tensor:
    """Where they lie: of B sequences the keys and values (1, kv_heads, C, d) of L layers -> (L, max(B, 2), 3) int64.

    Addresses of keys and of values, and C. They hold for one pass: nobody gives a cache other buffers meanwhile. One
    sequence stands there twice: a tracer takes a size of one for a constant.
    """
    rows = [[_place(*own) for own in layer] for layer in zip(*caches, strict=True)]
    return torch.tensor(rows if len(caches) > 1 else [[*layer, *layer] for layer in rows])


def _place(keys: Tensor, values: Tensor) -> tuple[int, int, int]:
    assert keys.is_contiguous() and values.is_contiguous(), "an address tells of nothing but whole buffers"
    return keys.data_ptr(), values.data_ptr(), keys.shape[2]


def padded(tokens: Tensor, ancestors: Tensor, least: int = LEAST) -> tuple[Tensor, Tensor]:
    """A tree of fewer nodes gets siblings that only see themselves: nobody reads what becomes of them."""
    missing = max(least - len(tokens), 0)
    if not missing:
        return tokens, ancestors
    others = torch.eye(missing, dtype=torch.bool, device=ancestors.device)
    return torch.cat([tokens, tokens.new_zeros(missing)]), torch.block_diag(ancestors, others).bool()


def attend_slowly(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    caches: Sequence[tuple[Tensor, Tensor]],
    sight: Tensor,
    scale: float,
) -> Tensor:
    """What the kernel `attend_cache` computes, by torch, a query after the other: the reference of the tests.

    query (1, heads, M, d); key and value (1, kv_heads, M, d), which are written into the caches, B pairs of
    (1, kv_heads, C, d); sight (1, 1, M, 5 + E) -> (1, M, heads, d).
    """
    outputs = []
    for node, (_, _, _, place, sequence, *_) in enumerate(sight[0, 0].tolist()):
        for cache, new in zip(caches[sequence], (key, value), strict=True):
            cache[:, :, place] = new[:, :, node]
    for node, (first, end, begin, _, sequence, *seen) in enumerate(sight[0, 0].tolist()):
        places = [*range(first, end), *(begin + column for column, is_seen in enumerate(seen) if is_seen)]
        keys, values = (cache[:, :, places] for cache in caches[sequence])
        one = scaled_dot_product_attention(query[:, :, node : node + 1], keys, values, scale=scale, enable_gqa=True)
        outputs.append(one.transpose(1, 2))
    return torch.cat(outputs, dim=1)
