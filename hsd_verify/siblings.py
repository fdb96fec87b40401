"""Testing the children of one node: the step every recursive rule here is made of.

Letters: n nodes of one family, K most sampled siblings, M most placed siblings, N nodes of the tree, V vocabulary.

A node v that its ancestors hand on with weight w starts with the mass `left = w p(. | v)` (V,) and the slack `1 - w`,
which belongs to the branches still to come. Children are tested in order; child c with token x was proposed by q_c:

    G    = sum(left) + slack
    w_c  = min(1, left(x) / (G q_c(x)))         weight of the child
    left = [left - G q_c]+                      what its rejection leaves

and v itself is handed on with weight `sum(left) / (sum(left) + slack)`, its token drawn in proportion to `left`.

This is the textbook recursion  `w_c = min(1, w P(x) / q_c(x));  M = [w P - q_c]+;  S = sum(M);  P = M / S;
w = S / (S + 1 - w)`  with `left = G w P`: written without normalising, it divides by nothing that can be zero while
the node is still in play. G = 0 means that an earlier child is accepted for sure, so nothing after it is reached.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hsd_verify.topology import Family, Forest


@dataclass
class Siblings:
    """A family in the middle of being tested; `left` and `mass` shrink from child to child."""

    left: Tensor  # (n, V) unnormalised residual of each node
    mass: Tensor  # (n,) float64, sum of `left`
    slack: Tensor  # (n,) float64, 1 - w

    @property
    def fire(self) -> Tensor:
        """(n,) weight of each node once its children are rejected; 0 where that cannot happen."""
        return _ratio(self.mass, self.mass + self.slack)


def weigh_children(
    family: Family, forest: Forest, target_probs: Tensor, totals: Tensor, own: Tensor, weight: Tensor
) -> Siblings:
    """Test all children of a family whose nodes have the weights `own` (n,), and return what is left of each node.

    `totals` (N,) are the row sums of target_probs (N, V). Fills `weight` (N,), zero before, at the children.
    """
    left = target_probs[family.nodes].mul_(own[:, None].to(target_probs.dtype))  # (n, V)
    siblings = Siblings(left, own * totals[family.nodes], 1 - own)
    if family.sampled:
        _weigh_sampled(siblings, family, forest, weight)
    if family.placed.shape[1]:
        _weigh_placed(siblings, family, weight)
    return siblings


def left_after_children(forest: Forest, target_probs: Tensor, totals: Tensor, own: Tensor, node: int) -> Tensor:
    """Unnormalised residual (V,) of one node with the weight `own` (), formed alone."""
    if not forest.children[node]:
        return target_probs[node]
    scratch = torch.zeros_like(totals, dtype=torch.float64)  # (N,)
    return weigh_children(forest.family([node]), forest, target_probs, totals, own[None], scratch).left[0]


def _weigh_sampled(siblings: Siblings, family: Family, forest: Forest, weight: Tensor) -> None:
    proposal = forest.draft_probs[family.nodes[: len(family.sampled[0])]]  # (n, V)
    kept = torch.ones_like(siblings.mass[: len(proposal)])  # (n,)
    for rank, children in enumerate(family.sampled):
        n = len(children)
        proposal, kept = proposal[:n], kept[:n]
        if rank and not forest.replacement:
            proposal.scatter_(1, forest.tokens[family.sampled[rank - 1][:n], None], 0)
            kept = proposal.sum(-1, dtype=torch.float64)  # (n,)
        weight[children] = _weigh_drawn(siblings, proposal, kept, forest.tokens[children])


def _weigh_drawn(siblings: Siblings, proposal: Tensor, kept: Tensor, tokens: Tensor) -> Tensor:
    """Weights (n,) of one sampled child of the first n nodes, drawn from proposal (n, V) / kept (n,)."""
    n = len(tokens)
    left, slack = siblings.left[:n], siblings.slack[:n]
    share = (siblings.mass[:n] + slack) / kept  # (n,) G, per unit of `proposal`
    wanted, offered = left.gather(1, tokens[:, None])[:, 0], proposal.gather(1, tokens[:, None])[:, 0]  # (n,)
    left.addcmul_(proposal, share[:, None].to(left.dtype), value=-1).relu_()
    siblings.mass[:n] = left.sum(-1)
    return _child_weight(wanted.double(), share * offered.double(), siblings.mass[:n] + slack)


def _weigh_placed(siblings: Siblings, family: Family, weight: Tensor) -> None:
    """All placed children at once: a point mass takes its own token and nothing else, so the steps have closed form."""
    wanted = siblings.left.gather(1, family.placed_tokens).double() * family.placed_mask  # (n, M)
    after = _snap(siblings.mass[:, None] - wanted.cumsum(-1), siblings.mass[:, None], siblings.left.dtype)  # (n, M)
    before = torch.cat([siblings.mass[:, None], after[:, :-1]], dim=1)  # (n, M)
    slack = siblings.slack[:, None]
    child_weight = _child_weight(wanted, before + slack, after + slack) * family.placed_mask  # (n, M)
    weight.index_add_(0, family.placed.flatten(), child_weight.flatten())
    emptied = torch.where(family.placed_mask, 0.0, torch.inf).to(siblings.left.dtype)  # (n, M) padding empties nothing
    siblings.left.scatter_reduce_(1, family.placed_tokens, emptied, "amin")
    siblings.mass[:] = after[:, -1]


def _child_weight(wanted: Tensor, offered: Tensor, rest: Tensor) -> Tensor:
    """min(1, wanted / offered); exactly 1 where nothing is left to be drawn elsewhere (`rest` is 0)."""
    ratio = _ratio(wanted, offered).clamp(max=1)
    return torch.where((rest == 0) & (wanted > 0), 1.0, ratio)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 where part is 0: 0/0 stands for an event that is never reached."""
    return torch.where(part > 0, part / whole, 0.0)


def _snap(mass: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`mass` with everything below the rounding of a sum of size `scale` set to 0, so that empty residuals never fire.

    The mass was found by subtracting tokens from a sum over the vocabulary; 16 units in the last place bound the
    rounding of that sum, which torch accumulates pairwise.
    """
    return torch.where(mass > 16 * torch.finfo(dtype).eps * scale, mass, 0.0)
