"""`hsd`: the one recursion that verifies any draft tree, whatever mixture of sampled and placed nodes it holds.

Letters: N nodes including the root, V vocabulary.

Node v carries a weight w (root: 1), the probability that its subtree *fires*, i.e. that the verifier stops in it.
`siblings.py` tests the children of one node; here the weights go down the tree level by level, and `law_from_fire`
walks back up. On one sampled chain this is Block Verification (arXiv 2403.10444, Algorithm 2) and capped HSD (arXiv
2601.05724, Algorithm 2); on a deterministic tree the target walk; without replacement Traversal Verification
(arXiv 2505.12398, Algorithm 2); on placed children beside one sampled child UniVer (arXiv 2605.04543).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hsd_verify.outcome import Law, law_from_fire
from hsd_verify.siblings import Siblings, open_siblings, weigh_children
from hsd_verify.topology import DraftTree


def hsd_law(tree: DraftTree, target_probs: Tensor, totals: Tensor) -> Law:
    """Law of the recursion; target_probs (N, V), `totals` (N,) its row sums. Applies to every tree."""
    weight, fire = _weigh(tree, target_probs, totals)  # (N,), (N,)

    def form_residual(node: int) -> Tensor:
        left = _left(tree, target_probs, totals, weight, node)  # (V,)
        return left if fire_list[node] > 0 else target_probs[node]

    fire_list = fire.tolist()
    return law_from_fire(tree, fire, form_residual, target_probs.dtype)


def _weigh(tree: DraftTree, target_probs: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and firing probability of every node, (N,) float64 each; nothing in here waits for the device."""
    weight = torch.zeros(tree.num_nodes, dtype=torch.float64, device=target_probs.device)
    weight[0] = 1
    inner = {}
    for family in tree.families:
        siblings = _tested(family, tree, target_probs, totals, weight)
        inner[family] = siblings.fire
    fire = weight.clone()  # leaves fire with their weight
    for family, probs in inner.items():
        fire[family.nodes] = probs
    return weight, fire


def _tested(family, tree: DraftTree, target_probs: Tensor, totals: Tensor, weight: Tensor) -> Siblings:
    siblings = open_siblings(family, target_probs, totals, weight)
    weigh_children(siblings, family, tree, weight)
    return siblings


def _left(tree: DraftTree, target_probs: Tensor, totals: Tensor, weight: Tensor, node: int) -> Tensor:
    """Unnormalised residual (V,) of one node, formed again from its weight."""
    if not tree.children[node]:
        return target_probs[node]
    scratch = torch.zeros_like(weight)
    scratch[node] = weight[node]
    return _tested(tree.family([node]), tree, target_probs, totals, scratch).left[0]
