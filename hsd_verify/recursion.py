"""`hsd`: the one recursion that verifies any draft tree, whatever mixture of sampled and placed nodes it holds.

Letters: N nodes including the root, V vocabulary.

Node v carries a weight w (root: 1), the probability that its subtree *fires*, i.e. that the verifier stops in it.
`siblings.py` tests the children of one node; here the weights go down the tree level by level, and `law_from_fire`
walks back up. On one sampled chain this is Block Verification (arXiv 2403.10444, Algorithm 2) and capped HSD (arXiv
2601.05724, Algorithm 2); on a deterministic tree the target walk; without replacement Traversal Verification
(arXiv 2505.12398); on placed children beside one sampled child, sampled first, UniVer (arXiv 2605.04543).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hsd_verify.outcome import Law, law_from_fire
from hsd_verify.siblings import left_after_children, weigh_children
from hsd_verify.topology import DraftTree, Forest


def hsd_law(tree: DraftTree, target_probs: Tensor, totals: Tensor) -> Law:
    """Law of the recursion; target_probs (N, V), `totals` (N,) its row sums. Applies to every tree."""
    return law_of_tree(tree, target_probs, totals, *weigh_forest(tree, target_probs, totals))


def law_of_tree(tree: DraftTree, target_probs: Tensor, totals: Tensor, weight: Tensor, fire: Tensor) -> Law:
    """Law of a weighed tree; weight and fire (N,) or longer. The one transfer to the host happens here."""

    def form_residual(node: int) -> Tensor:
        return left_after_children(tree, target_probs, totals, weight[node], node)

    return law_from_fire(tree, fire.tolist(), target_probs, form_residual)


def weigh_forest(forest: Forest, target_probs: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and firing probability of every node, (N,) float64 each; nothing in here waits for the device."""
    weight = torch.zeros(forest.num_nodes, dtype=torch.float64, device=target_probs.device)
    weight[forest.root_index] = 1
    inner = []
    for family in forest.families:
        siblings = weigh_children(family, forest, target_probs, totals, weight[family.nodes], weight)
        inner.append((family.nodes, siblings.fire))
    fire = weight.clone()  # leaves fire with their weight
    for nodes, probs in inner:
        fire[nodes] = probs
    return weight, fire
