"""What the nodes of a tree see of a cache, as `eagle.kernels` reads it: small, whatever the prefix's length.

    prefix 0 .. 5 | r a b c        sight of r   0 6 1 - - -     0: the first entry of the prefix that it sees
                                            a   0 6 1 1 - -     6: entries of the prefix
                                            b   0 6 1 - 1 -     then which of the four nodes
                                            c   0 6 1 1 - 1

Entries of the prefix lie at their positions, so a sliding window or a chunk is a first entry.

Letters: N tree nodes including the root, C capacity of the cache, d head size.
"""

import torch
from torch import Tensor

from eagle.engine import masks
from eagle.engine.shape import AttentionShape

LEAST = 2  # nodes of a pass: a tracer takes a size of one for a constant


def sights(ancestors: Tensor, length: int, shape: AttentionShape) -> Tensor | dict[str, Tensor]:
    """(N, N) bool, `length` committed entries -> (1, 1, N, 2 + N) int32, or one for each kind of layer."""
    positions = length + masks.depths(ancestors)  # (N,)

    def make(window: int | None = None, chunk: int | None = None) -> Tensor:
        first = torch.zeros_like(positions)
        if window is not None:
            first = positions - window + 1
        if chunk is not None:
            first = torch.maximum(first, positions // chunk * chunk)
        seen = ancestors & masks.in_sight(positions[:, None], positions, window, chunk)
        parts = [first.clamp(0, length)[:, None], torch.full_like(positions, length)[:, None], seen.long()]
        return torch.cat(parts, dim=1).int()[None, None]

    return masks.by_kind(shape, make)


def padded(tokens: Tensor, ancestors: Tensor) -> tuple[Tensor, Tensor]:
    """A lone root gets a sibling that only sees itself: nobody reads what becomes of it."""
    missing = max(LEAST - len(tokens), 0)
    if not missing:
        return tokens, ancestors
    others = torch.eye(missing, dtype=torch.bool, device=ancestors.device)
    return torch.cat([tokens, tokens.new_zeros(missing)]), torch.block_diag(ancestors, others).bool()


def attend_slowly(query: Tensor, keys: Tensor, values: Tensor, sight: Tensor, scale: float) -> Tensor:
    """What the kernel `attend_cache` computes, over the whole capacity: query (1, heads, N, d) -> (1, N, heads, d).

    keys and values (1, key heads, C, d). The reference of the tests.
    """
    first, length, seen = sight[..., :1], sight[..., 1:2], sight[..., 2:].bool()
    places = torch.arange(keys.shape[2], device=keys.device)
    own = (places - length).clamp(0, seen.shape[-1] - 1)  # (1, 1, N, C)
    behind = (places >= length) & (places < length + seen.shape[-1])
    allowed = ((places >= first) & (places < length)) | (behind & seen.gather(-1, own.long()))
    product = torch.nn.functional.scaled_dot_product_attention(
        query, keys, values, allowed, scale=scale, enable_gqa=True
    )
    return product.transpose(1, 2)
