"""One verdict of `hsd` without its law: only what the uniform numbers make necessary is worked out.

Letters: N nodes including the root, V vocabulary.

The law asks nodes in post-order, and v stops the verdict with the probability `fire[v]` (see `recursion.py`). A verdict
compares one uniform number a node with it, `u[v] < fire[v]`, and ends at the first success. Walking the tree in this
order with the numbers at hand, most of the law is never needed:

- nodes after the stop are not visited, and neither is a subtree of weight 0;
- the weights of a node's first child and of placed children follow from entries at their tokens. A pass over the
  vocabulary is due only where a rejected sampled child left an unknown mass S = sum [left - G q]+ behind, on which the
  next sibling's weight and the node's own `fire = S / (S + slack)` depend;
- `fire` grows with S, and S is at most the mass before the child minus what its own token loses. A node whose number is
  not below the `fire` of this bound does not stop the verdict, whatever S is. On a long chain, where the weights of
  deep nodes are small, hardly any S is formed.

It is *not* true that the subtree of c fires with probability w_c for the tree at hand, by which one could skip it
whole: that holds on average over what the draft might have put below c (on a chain with ratios 1/2 and then 3, the
second token is accepted for sure although the weight of the first is 1/2). So the walk starts at the first leaf.

The same numbers give the same node here and in `draw.draw_at` of the law, up to rounding. Passes are in the precision
of the laws, everything else in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hsd_verify.checks import SUM_TOLERANCE
from hsd_verify.draw import draw_index
from hsd_verify.target_rows import TargetRows

ROUNDING = 1e-5  # of a float32 sum over the vocabulary, relative to the mass; bounds are widened by it


@dataclass
class _Open:
    """A node whose children are being tested; `left`, `G`, `slack` as in `siblings.py`."""

    node: int
    own: float  # its weight
    mass: float  # sum of `left`; while `unsettled`, before the last rejection
    scale: float  # the sum over the vocabulary that `mass` was found from
    children: tuple[int, ...]  # in test order
    tested: int = 0
    taken: float = 0.0  # multiples of q subtracted so far
    unsettled: bool = False  # the mass after the rejection of the last sampled child is not known yet
    lost: float = 0.0  # what that child's own token lost: the mass has fallen at least by this
    fixed: dict[int, float] = field(default_factory=dict)  # `left` at tokens that later siblings leave as they are

    @property
    def slack(self) -> float:
        return 1 - self.own

    def fires(self, uniform: float, mass: float) -> bool:
        """Whether the node stops the verdict, were `mass` left of it."""
        return uniform * (mass + self.slack) < mass


def hsd_verdict(rows: TargetRows, uniforms: Tensor) -> tuple[int, int]:
    """Last accepted node and next token at given numbers in [0, 1), `uniforms` (N + 1,): one a node, one for the token.

    Meant for a CPU: every pass waits for its result.
    """
    walk = _Walk(rows)
    stopped = walk.stop(uniforms.tolist())
    return stopped.node, draw_index(walk.residual(stopped), uniforms[-1])


class _Walk:
    def __init__(self, rows: TargetRows) -> None:
        self.tree, self.rows = rows.tree, rows
        self.target_at = rows.entries()
        self.scratch = torch.empty_like(rows.probs[0])  # (V,)

    def stop(self, uniforms: Sequence[float]) -> _Open:
        """The node at which the verdict ends, with what the rejection of its children left there."""
        path = [self._open(0, 1.0)]
        while True:
            node = path[-1]
            if node.tested < len(node.children):
                weight = self._weigh_next(node)
                if weight > 0:
                    path.append(self._open(node.children[node.tested - 1], weight))
            elif self._fires(node, uniforms[node.node]) or len(path) == 1:  # the root always
                return node
            else:
                path.pop()

    def residual(self, node: _Open) -> Tensor:
        """Residual (V,), not normalised, of the node that `stop` ended at.

        The root can be left with nothing if target and proposals agree up to rounding and a child was rejected
        nevertheless, an event as rare as rounding is small: then the token comes from the target's own row.
        """
        return self._left(node) if node.children and node.mass > 0 else self.rows.row(node.node)

    def _open(self, node: int, weight: float) -> _Open:
        mass = weight * self.rows.totals[node]
        return _Open(node, weight, mass, mass, self.tree.children[node])

    def _fires(self, node: _Open, uniform: float) -> bool:
        if not node.children:
            return uniform < node.own
        at_most = node.mass - node.lost + ROUNDING * node.mass
        if node.unsettled and not node.fires(uniform, at_most):
            return False
        self._settle(node)
        return node.fires(uniform, node.mass)

    def _weigh_next(self, node: _Open) -> float:
        """Weight of the next child; the node is left as if that child were rejected."""
        child = node.children[node.tested]
        node.tested += 1
        self._settle(node)
        return self._weigh_sampled(node, child) if self.tree.sampled_list[child] else self._weigh_placed(node, child)

    def _weigh_sampled(self, node: _Open, child: int) -> float:
        share = (node.mass + node.slack) / self.tree.kept_of[child]  # multiples of q that the child was offered
        wanted, offered = self._left_at(node, child), share * self.tree.proposal_at[child]
        node.taken += share
        node.unsettled, node.lost = True, min(wanted, offered)
        if not self.tree.replacement:
            node.fixed[self.tree.token_list[child]] = max(0.0, wanted - offered)
        if wanted < offered and self._may_be_exhausted(node, share, offered - wanted):
            self._settle(node)
            return float(wanted > 0) if node.mass == 0 else wanted / offered
        return min(1.0, wanted / offered) if offered > 0 else 0.0

    def _may_be_exhausted(self, node: _Open, share: float, deficit: float) -> bool:
        """Whether nothing at all may be left after a rejection, in which case the child is accepted for sure.

        Without slack, what the child's token falls short of its proposal by (`deficit`) is in excess elsewhere, up to
        how far rows may sum from 1.
        """
        return node.slack == 0 and deficit <= 2 * SUM_TOLERANCE[self.scratch.dtype] * share

    def _weigh_placed(self, node: _Open, child: int) -> float:
        """A point mass takes its own token and nothing else, so no pass is needed."""
        wanted, before = self._left_at(node, child), node.mass + node.slack
        node.fixed[self.tree.token_list[child]] = 0.0
        node.mass = self._snap(node.mass - wanted, node.scale)
        if node.mass + node.slack == 0:
            return float(wanted > 0)
        return min(1.0, wanted / before)

    def _snap(self, mass: float, scale: float) -> float:
        """`mass` unless it is below the rounding of a sum of size `scale`, as in `siblings.py`."""
        return mass if mass > 16 * torch.finfo(self.scratch.dtype).eps * scale else 0.0

    def _settle(self, node: _Open) -> None:
        """Find the mass that the last sampled child left, by the one kind of pass over the vocabulary there is."""
        if node.unsettled and node.mass > 0:
            node.mass = node.scale = float(self._left(node).sum())
        node.unsettled = False

    def _left(self, node: _Open) -> Tensor:
        """What is left of a node (V,), in the scratch."""
        left = torch.mul(self.rows.row(node.node), node.own, out=self.scratch)
        if node.taken:
            left.sub_(self.tree.proposals[node.node], alpha=node.taken).relu_()
        for token, value in node.fixed.items():
            left[token] = value
        return left

    def _left_at(self, node: _Open, child: int) -> float:
        """What is left of a node at the token of a child."""
        token = self.tree.token_list[child]
        if token in node.fixed or not node.taken:
            return node.fixed.get(token, node.own * self.target_at[child])
        return max(0.0, node.own * self.target_at[child] - node.taken * self.tree.proposal_at[child])
