"""The target's laws as a verdict reads them: rows of nodes with children at once, a leaf's row only if it ends there.

Letters: N nodes including the root, n nodes with children, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hsd_verify import checks
from hsd_verify.tree import DraftTree

FormLaws = Callable[[Tensor | slice], Tensor]  # nodes, (n,) int64 or a slice -> their laws (n, V)


@dataclass(frozen=True, eq=False)
class TargetRows:
    """Checked laws of the nodes with children, and a way to the others."""

    tree: DraftTree
    probs: Tensor  # (n, V), or (N, V) when all were given
    place: Sequence[int]  # (N,) which of them is a node's; -1 for leaves
    totals: Sequence[float]  # (N,) row sums of the nodes with children, 1 elsewhere
    form: FormLaws

    @classmethod
    def given(cls, tree: DraftTree, target_probs: Tensor) -> TargetRows:
        """All rows (N, V). Raises `ValueError` as `checks.check_target` does; rows of leaves are not read."""
        totals = checks.check_target(tree, target_probs, leaves=False).tolist()
        place = [node if children else -1 for node, children in enumerate(tree.children)]
        return cls(tree, target_probs, place, totals, target_probs.__getitem__)

    @classmethod
    def formed(cls, tree: DraftTree, form: FormLaws) -> TargetRows:
        """Rows made where they are read, so that those of most leaves never are. Raises `ValueError` likewise."""
        inner = [node for node, children in enumerate(tree.children) if children] or [0]
        probs = form(torch.tensor(inner, device=tree.parents.device))  # (n, V)
        place, totals = [-1] * tree.num_nodes, [1.0] * tree.num_nodes
        for row, (node, total) in enumerate(zip(inner, checks.check_rows(tree, probs, inner).tolist(), strict=True)):
            place[node], totals[node] = row, total
        return cls(tree, probs, place, totals, form)

    def entries(self) -> list[float]:
        """What every node's token has in the row of its parent, (N,); of no meaning at the root."""
        return self.tree.entries(self.probs, torch.tensor(self.place, device=self.probs.device)).tolist()

    def row(self, node: int) -> Tensor:
        """Law (V,) of a node; a leaf's is checked here, since a verdict that asks for it ends there."""
        if self.place[node] >= 0:
            return self.probs[self.place[node]]
        formed = self.form(torch.tensor([node], device=self.tree.parents.device))  # (1, V)
        checks.check_rows(self.tree, formed, [node])
        return formed[0]
