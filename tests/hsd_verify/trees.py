"""Random drafted trees over vocabularies of any size, for properties and numerics.

Letters: N nodes including the root, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import hsd_verify
from hsd_verify.draw import draw_index


def random_case(
    seed: int, num_nodes: int = 7, vocab: int = 6, replacement: bool = False, scale: float = 1.0, noise: float = 0.7
) -> tuple[hsd_verify.DraftTree, Tensor]:
    """A tree of random shape and mixture with target laws (N, V), float64; `scale` is the spread of the logits."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(num_nodes, vocab, generator=generator, dtype=torch.float64)  # (N, V)
    draft = (logits + noise * torch.randn(num_nodes, vocab, generator=generator, dtype=torch.float64)).softmax(-1)
    parents = [-1, *(int(torch.randint(i, (), generator=generator)) for i in range(1, num_nodes))]
    sampled = [False, *(torch.rand(num_nodes - 1, generator=generator) < 0.6).tolist()]
    tokens = [0] * num_nodes
    for node in range(num_nodes):
        children = [i for i in range(1, num_nodes) if parents[i] == node]
        _fill(children, sampled, tokens, draft[node], replacement, generator)
    flags = torch.tensor(sampled)
    tree = hsd_verify.DraftTree(
        torch.tensor(parents), torch.tensor(tokens), flags, draft if flags.any() else None, replacement
    )
    return tree, logits.softmax(-1)


def numbered_cases(seed: int, replacement: bool) -> Iterator[tuple[hsd_verify.DraftTree, Tensor, Tensor]]:
    """Trees, target laws (N, V) and 30 lists of numbers (N + 1,) for each of three spreads of the logits."""
    for spread, scale in enumerate((0.3, 2.0, 8.0)):
        tree, target = random_case(100 * spread + seed, 2 + seed % 9, 11, replacement, scale)
        generator = torch.Generator().manual_seed(seed)
        for uniforms in torch.rand(30, tree.num_nodes + 1, generator=generator, dtype=torch.float64):
            yield tree, target, uniforms


def _fill(children, sampled, tokens, law, replacement, generator) -> None:
    """Tokens of one node's children; `law` (V,) loses those of the placed ones."""
    placed = [c for c in children if not sampled[c]]
    for child, token in zip(placed, law.topk(len(placed)).indices.tolist(), strict=True):
        tokens[child] = token
    law[[tokens[c] for c in placed]] = 0
    law /= law.sum()
    rest = law.clone()  # (V,)
    for child in (c for c in children if sampled[c]):
        tokens[child] = draw_index(rest, torch.rand((), generator=generator, dtype=torch.float64))
        if not replacement:
            rest[tokens[child]] = 0


def outcome(law: hsd_verify.Law) -> Tensor:
    """Joint law (N, V) of where a verifier stops and what it adds."""
    return torch.stack([stop * law.residual(v) for v, stop in enumerate(law.stop)])
