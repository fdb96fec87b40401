"""The recursion as it is written on paper: plain Python numbers, no vector, no shortcut. Slow, and meant to be read.

Letters: N nodes including the root, V vocabulary.

Fast paths are compared with it, in tests and in `eagle-hsd bench verify`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hsd_verify.tree import DraftTree

Numbers = list[float]


@dataclass(frozen=True)
class ReferenceLaw:
    """As `Law`, with lists for tensors."""

    stop: Numbers  # N
    residual: list[Numbers]  # N lists of V


def reference_law(tree: DraftTree, target_probs: Tensor) -> ReferenceLaw:
    """Law of `hsd` on any tree; target_probs (N, V)."""
    recursion = _Recursion(tree, target_probs.tolist())
    recursion.visit(0, 1.0)
    return ReferenceLaw(recursion.stop, recursion.target)


class _Recursion:
    def __init__(self, tree: DraftTree, target: list[Numbers]) -> None:
        self.tree, self.target = tree, target
        self.draft = [] if tree.draft_probs is None else tree.draft_probs.tolist()
        self.stop = [0.0] * tree.num_nodes
        self.reach = 1.0  # probability that nothing has fired so far

    def visit(self, node: int, weight: float) -> None:
        """Visit the subtrees of a node in test order, and then the node itself."""
        target = self.target[node]
        for rank, child in enumerate(self.tree.children[node]):
            token, proposal = self.tree.token_list[child], self._proposal(node, rank)
            left = [max(weight * p - q, 0.0) for p, q in zip(target, proposal, strict=True)]
            excess = sum(left)
            sure = excess == 0 and weight == 1  # the target is the proposal: the child's subtree fires
            self.visit(child, 1.0 if sure else min(1.0, weight * target[token] / proposal[token]))
            if excess == 0:
                weight = 0.0  # 0/0: nothing is left for this node or its later children
                break
            target, weight = [m / excess for m in left], excess / (excess + (1 - weight))
        self.target[node] = target
        self.stop[node] = self.reach * weight
        self.reach *= 1 - weight

    def _proposal(self, node: int, rank: int) -> Numbers:
        """The law the child of this rank was proposed by."""
        child = self.tree.children[node][rank]
        if not self.tree.sampled_list[child]:
            return [float(x == self.tree.token_list[child]) for x in range(len(self.target[node]))]
        drawn = [] if self.tree.replacement else [self.tree.token_list[c] for c in self.tree.children[node][:rank]]
        rest = [0.0 if x in drawn else q for x, q in enumerate(self.draft[node])]
        total = sum(rest) if drawn else 1.0
        return [q / total for q in rest]
