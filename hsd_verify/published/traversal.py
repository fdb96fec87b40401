"""Traversal Verification (arXiv 2505.12398): leaves first, siblings sampled without replacement.

Letters: N nodes including the root, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from hsd_verify.outcome import Law, law_from_fire
from hsd_verify.refusals import require_without_replacement
from hsd_verify.tree import DraftTree


def traversal_law(tree: DraftTree, target_probs: Tensor, totals: Tensor) -> Law:
    """Law of Traversal Verification (arXiv 2505.12398); target_probs (N, V).

    Written as published, node by node and normalised after every rejection; `hsd` equals it where it applies.
    Raises `ValueError` unless every node was sampled, siblings without replacement.
    """
    require_without_replacement(tree, "traversal")
    traversal = _Traversal(tree, target_probs)
    visits = [traversal.visit(0, 1.0)]
    while visits:  # a stack of our own: a path of a thousand nodes is deeper than Python's
        below = next(visits[-1], None)
        if below is None:
            visits.pop()
        else:
            visits.append(traversal.visit(*below))
    return law_from_fire(tree, traversal.fire, target_probs, lambda node: traversal.target[node])


class _Traversal:
    """The tree while its leaves are being deleted: every node's current target law and acceptance probability."""

    def __init__(self, tree: DraftTree, target_probs: Tensor) -> None:
        self.tree = tree
        self.target = list(target_probs)  # N of (V,), replaced by residuals
        self.fire = [0.0] * tree.num_nodes

    def visit(self, node: int, weight: float) -> Iterator[tuple[int, float]]:
        """Reject the children of a node one after the other, then settle with what probability it is accepted.

        Yields each child with its weight, to be visited before this node goes on.
        """
        drawn: list[int] = []
        for child in self.tree.children[node]:
            token, draft = self.tree.token_list[child], _without(self.tree.proposals[node], drawn)  # (V,)
            ratio = float(self.target[node][token]) / float(draft[token])
            residual = (self.target[node] * weight).sub_(draft).relu_()  # (V,)
            excess = float(residual.sum())
            whole = excess + (1 - weight)
            yield child, min(1.0, weight * ratio) if whole > 0 else 1.0  # whole = 0: accepted for sure
            if excess == 0:
                weight = 0.0  # nothing left to draw at this node: it and its later children are never accepted
                break
            self.target[node], weight = residual / excess, excess / whole
            drawn.append(token)
        self.fire[node] = weight


def _without(draft: Tensor, drawn: list[int]) -> Tensor:
    """Law (V,) of the next sibling: the drawn tokens are removed and the rest renormalised."""
    if not drawn:
        return draft
    rest = draft.clone()
    rest[drawn] = 0
    return rest / rest.sum()
