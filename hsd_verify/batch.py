"""The same verifiers for B trees at once, padded to one number of nodes. A batch equals its rows.

Letters: B trees, N nodes a tree after padding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hsd_verify import checks
from hsd_verify.draw import draw
from hsd_verify.outcome import Law, Verdict, verdict_of
from hsd_verify.recursion import law_of_tree, weigh_forest
from hsd_verify.topology import PADDING, Forest
from hsd_verify.tree import DraftTree
from hsd_verify.verifiers import find_rule


def law_batch(trees: Sequence[DraftTree], target_probs: Tensor, verifier: str = "hsd") -> list[Law]:
    """Law of every tree; target_probs (B, N, V), of whose rows tree b reads its first `num_nodes`.

    `hsd` weighs all trees in one pass over the levels, provided that they agree on `replacement`; the others go tree by
    tree. Raises `ValueError` as `law` does, the message opening with the number of the tree.
    """
    rule = find_rule(verifier)
    totals = [_checked(b, tree, target_probs) for b, tree in enumerate(trees)]  # B of (N_b,)
    if verifier == "hsd" and len({tree.replacement for tree in trees}) == 1:
        return _hsd_laws(trees, target_probs, totals)
    return [rule(tree, target_probs[b, : tree.num_nodes], totals[b]) for b, tree in enumerate(trees)]


def verify_batch(
    trees: Sequence[DraftTree],
    target_probs: Tensor,
    verifier: str = "hsd",
    generators: Sequence[torch.Generator | None] | None = None,
) -> list[Verdict]:
    """One verdict a tree, row b drawn from `generators[b]`: what `verify` answers to that row and generator alone."""
    generators = [None] * len(trees) if generators is None else generators
    laws = law_batch(trees, target_probs, verifier)
    drawn = [draw(law, generator) for law, generator in zip(laws, generators, strict=True)]
    return [verdict_of(tree, *outcome) for tree, outcome in zip(trees, drawn, strict=True)]


def join(trees: Sequence[DraftTree], num_nodes: int) -> Forest:
    """The trees as one forest: node i of tree b becomes node `b * num_nodes + i`, entries beyond a tree are padding."""
    parents, tokens, sampled = [], [], []
    for b, tree in enumerate(trees):
        padding = num_nodes - tree.num_nodes
        parents += [p + b * num_nodes if p >= 0 else -1 for p in tree.parent_list] + [PADDING] * padding
        tokens += [*tree.token_list, *[0] * padding]
        sampled += [*tree.sampled_list, *[False] * padding]
    device = trees[0].parents.device
    return Forest(
        parents=torch.tensor(parents, device=device),
        tokens=torch.tensor(tokens, device=device),
        sampled=torch.tensor(sampled, device=device),
        draft_probs=_join_rows(trees, num_nodes),
        replacement=trees[0].replacement,
    )


def _join_rows(trees: Sequence[DraftTree], num_nodes: int) -> Tensor | None:
    """Proposal laws of all trees, (B * N, V); zero where a tree has none."""
    known = [tree.draft_probs for tree in trees if tree.draft_probs is not None]
    if not known:
        return None
    rows = known[0].new_zeros(len(trees), num_nodes, known[0].shape[1])  # (B, N, V)
    for row, tree in zip(rows, trees, strict=True):
        if tree.draft_probs is not None:
            row[: tree.num_nodes] = tree.draft_probs
    return rows.flatten(0, 1)  # (B * N, V)


def _hsd_laws(trees: Sequence[DraftTree], target_probs: Tensor, totals: Sequence[Tensor]) -> list[Law]:
    num_nodes = target_probs.shape[1]
    padded = target_probs.new_ones(target_probs.shape[:2])  # (B, N)
    for row, known in zip(padded, totals, strict=True):
        row[: len(known)] = known
    tested, fire = weigh_forest(join(trees, num_nodes), target_probs.flatten(0, 1), padded.flatten())
    fires = fire.view(-1, num_nodes).tolist()  # B of N
    return [
        law_of_tree(tree, target_probs[b, : tree.num_nodes], tested, fires[b], first=b * num_nodes)
        for b, tree in enumerate(trees)
    ]


def _checked(b: int, tree: DraftTree, target_probs: Tensor) -> Tensor:
    """Row sums (N_b,) of tree b; errors open with its number."""
    try:
        return checks.check_target(tree, target_probs[b, : tree.num_nodes])
    except ValueError as error:
        raise ValueError(f"tree {b}: {error}") from None
