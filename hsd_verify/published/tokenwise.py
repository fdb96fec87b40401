"""Token-wise verification: recursive rejection sampling from the top down, the baseline of SpecInfer and EAGLE.

Letters: N nodes including the root, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hsd_verify.outcome import Law
from hsd_verify.siblings import residual_of, weigh_children
from hsd_verify.tree import DraftTree


def tokenwise_law(tree: DraftTree, target_probs: Tensor, totals: Tensor) -> Law:
    """Law of recursive rejection sampling; target_probs (N, V), `totals` (N,) its row sums. Applies to every tree.

    At an accepted node each child is tested against what its rejected siblings left of the target, and the first
    accepted one is entered for good (with replacement: SpecInfer, arXiv 2305.09781; without: EAGLE, arXiv 2401.15077,
    and Recursive Speculative Decoding, arXiv 2402.14160). It is the sibling test of `hsd` with every accepted node
    restarted at weight 1.
    """
    accept = torch.zeros(tree.num_nodes, dtype=torch.float64, device=target_probs.device)
    one = torch.ones_like(accept)
    tested = [weigh_children(family, tree, target_probs, totals, one[family.nodes], accept) for family in tree.families]

    def form_residual(node: int) -> Tensor:
        return residual_of(tested[tree.depth[node]], node) if tree.children[node] else target_probs[node]

    return Law(tree, target_probs, target_probs.new_tensor(_stops(tree, accept.tolist())), form_residual)


def _stops(tree: DraftTree, accept: list[float]) -> list[float]:
    """Probability of stopping at each node, given that of accepting each child after its earlier siblings."""
    stop = [1.0] * tree.num_nodes  # first the probability of getting to the node
    for node, children in enumerate(tree.children):
        for child in children:
            stop[child] = stop[node] * accept[child]
            stop[node] *= 1 - accept[child]
    return stop
