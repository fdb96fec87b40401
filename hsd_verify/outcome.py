"""What a verifier says about one tree: a law (where it stops and what it adds), and a verdict drawn from it.

Letters: N nodes including the root, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hsd_verify.tree import DraftTree


@dataclass(frozen=True, eq=False)
class Law:
    """The exact law of a verifier's outcome on one tree: a node to stop at, and a token to add after it."""

    tree: DraftTree
    target_probs: Tensor  # (N, V) as given
    stop: Tensor  # (N,) probability that the last accepted node is v; sums to 1
    form_residual: Callable[[int], Tensor]  # node -> (V,) law of the token added there, not necessarily normalised

    def residual(self, node: int) -> Tensor:
        """Law (V,) of the token added after `node`, given that the verifier stops there.

        Where the verifier never stops (`stop[node] == 0`) there is nothing to condition on; the target's own row is
        returned, so that mixtures weighted by `stop` stay finite.
        """
        never = float(self.stop[node]) == 0
        left = self.target_probs[node] if never else self.form_residual(int(node))  # (V,)
        return left / left.sum()

    @cached_property
    def reach(self) -> Tensor:
        """(N,) probability that node v is accepted: that the verifier stops in its subtree."""
        reach = self.stop.tolist()
        for node in range(self.tree.num_nodes - 1, 0, -1):
            reach[self.tree.parent_list[node]] += reach[node]
        return self.stop.new_tensor(reach)

    @cached_property
    def expected_tau(self) -> float:
        """Expected number of accepted draft tokens, without the token added after them."""
        stop: list[float] = self.stop.tolist()
        return sum(prob * depth for prob, depth in zip(stop, self.tree.depth, strict=True))


@dataclass(frozen=True, eq=False)
class Verdict:
    """One draw from a `Law`."""

    path: Tensor  # (tau,) int64 accepted nodes below the root, from shallow to deep; on the host, which chose them
    next_token: int  # the token added after the last accepted node

    @property
    def node(self) -> int:
        """The last accepted node; 0 if the root is all there is."""
        return int(self.path[-1]) if len(self.path) else 0

    @property
    def num_accepted(self) -> int:
        """tau of this round."""
        return len(self.path)


def verdict_of(tree: DraftTree, node: int, token: int) -> Verdict:
    """The verdict that ends at `node` and adds `token`."""
    return Verdict(torch.tensor(tree.path(node), dtype=torch.int64), token)


def law_from_fire(
    tree: DraftTree, fire: Sequence[float], target_probs: Tensor, form_residual: Callable[[int], Tensor]
) -> Law:
    """Law of a rule that visits nodes in post-order and stops at v with probability `fire[v]` when it gets there."""
    stop, remaining = [0.0] * tree.num_nodes, 1.0
    for node in tree.post_order:
        stop[node] = remaining * fire[node]
        remaining *= 1.0 - fire[node]
    return Law(tree, target_probs, target_probs.new_tensor(stop), form_residual)
