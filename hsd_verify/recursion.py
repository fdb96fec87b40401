"""`hsd`: the one recursion that verifies any draft tree, whatever mixture of sampled and placed nodes it holds.

Letters: N nodes including the root, V vocabulary.

Node v carries a weight w (root: 1), the probability that its subtree *fires*, i.e. that the verifier stops in it, on
average over what is drafted there.
`siblings.py` tests the children of one node; here the weights go down the tree level by level, and `law_from_fire`
walks back up. On one sampled chain this is Block Verification (arXiv 2403.10444, Algorithm 2) and capped HSD (arXiv
2601.05724, Algorithm 2); on a deterministic tree the target walk; without replacement Traversal Verification
(arXiv 2505.12398); on placed children beside one sampled child, sampled first, UniVer (arXiv 2605.04543).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hsd_verify.outcome import Law, law_from_fire
from hsd_verify.siblings import Siblings, residual_of, weigh_children
from hsd_verify.topology import Forest
from hsd_verify.tree import DraftTree


def hsd_law(tree: DraftTree, target_probs: Tensor, totals: Tensor) -> Law:
    """Law of the recursion; target_probs (N, V), `totals` (N,) its row sums. Applies to every tree."""
    tested, fire = weigh_forest(tree, target_probs, totals)
    return law_of_tree(tree, target_probs, tested, fire.tolist())  # the one transfer to the host


def law_of_tree(
    tree: DraftTree, target_probs: Tensor, tested: Sequence[Siblings], fire: Sequence[float], first: int = 0
) -> Law:
    """Law of one weighed tree, which begins at node `first` of the forest that was tested; target_probs (N, V)."""

    def form_residual(node: int) -> Tensor:
        if not tree.children[node]:
            return target_probs[node]
        return residual_of(tested[tree.depth[node]], first + node)

    return law_from_fire(tree, fire, target_probs, form_residual)


def weigh_forest(forest: Forest, target_probs: Tensor, totals: Tensor) -> tuple[list[Siblings], Tensor]:
    """Every level tested, and the firing probability of every node (N,); nothing in here waits for the device."""
    weight = torch.zeros(forest.num_nodes, dtype=torch.float64, device=target_probs.device)
    weight[forest.root_index] = 1
    tested = [
        weigh_children(family, forest, target_probs, totals, weight[family.nodes], weight) for family in forest.families
    ]
    fire = weight.clone()  # leaves fire with their weight
    for siblings in tested:
        fire[siblings.family.nodes] = siblings.fire
    return tested, fire
