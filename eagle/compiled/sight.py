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
    num_columns = sum(len(own) for own in ancestors)
    positions = [length + masks.depths(own) for own, length in zip(ancestors, lengths, strict=True)]  # B of (N,)

    def make(window: int | None = None, chunk: int | None = None) -> Tensor:
        parts, before = [], 0
        for number, (own, length, at) in enumerate(zip(ancestors, lengths, positions, strict=True)):
            seen = (own & masks.in_sight(at[:, None], at, window, chunk)).long()  # (N, N), of its own tree
            header = _header(at, length, _first(at, window, chunk).clamp(0, length), before, number)
            parts.append(torch.cat([header, pad(seen, (before, num_columns - before - len(own)))], dim=1))
            before += len(own)
        return torch.cat(parts).int()[None, None]

    return masks.by_kind(shape, make)


def _first(positions: Tensor, window: int | None, chunk: int | None) -> Tensor:
    """(N,), the first position that each node sees; it may lie before the text."""
    first = torch.zeros_like(positions)
    if window is not None:
        first = positions - window + 1
    return first if chunk is None else torch.maximum(first, positions // chunk * chunk)


def _header(positions: Tensor, length: int, first: Tensor, before: int, number: int) -> Tensor:
    """(N, 5) of the sequence of this number, with so many columns before its own."""
    places = torch.arange(length, length + len(positions), device=positions.device)
    end, begin, sequence = (torch.full_like(positions, value) for value in (length, length - before, number))
    return torch.stack([first, end, begin, places, sequence], dim=1)


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
