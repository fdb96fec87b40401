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

All sampled siblings are proposed by one law q, up to the tokens drawn before them, so `left = [w p - taken q]+` with
one number `taken` a node, except at drawn tokens, where it stays as it was. Hence `left` is never stored: a pass over
the vocabulary forms it in a scratch, and keeps its sum and its values at the children's tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hsd_verify.topology import Family, Forest

SCRATCH_BYTES = 2**21  # rows formed at once on a CPU: what stays in a core's cache beside the rows it is made of


@dataclass
class Siblings:
    """A family in the middle of being tested; everything but `own` and `slack` changes from child to child."""

    family: Family
    forest: Forest
    target_probs: Tensor  # (N, V)
    own: Tensor  # (n,) float64, weight of each node
    slack: Tensor  # (n,) float64, 1 - own
    mass: Tensor  # (n,) float64, sum of `left`
    taken: Tensor  # (n,) float64, multiples of q subtracted so far
    at_tokens: Tensor  # (n, K + M) `left` at the tokens of the children
    scales: Tensor = field(init=False)  # (2, n, 1) factors of p and q in `left`, in the precision of the laws

    def take(self, share: Tensor) -> None:
        """Subtract further multiples `share` (m,) of q at the first m nodes."""
        self.taken[: len(share)] += share
        self.scales = torch.stack([self.own, -self.taken])[..., None].to(self.target_probs.dtype)

    @property
    def fire(self) -> Tensor:
        """(n,) weight of each node once its children are rejected; 0 where that cannot happen."""
        return _ratio(self.mass, self.mass + self.slack)

    def left(self, part: slice, rank: int) -> Tensor:
        """Residual (m, V), not normalised, of a slice of the nodes after their sampled child of this rank."""
        own, taken = self.scales[0, part], self.scales[1, part]  # (m, 1)
        left = self.family.rows_of(self.target_probs, part) * own  # (m, V)
        left.addcmul_(self.family.rows_of(self.forest.proposals, part), taken).relu_()
        if rank and not self.forest.replacement:
            left.scatter_(1, self.family.child_tokens[part, :rank], self.at_tokens[part, :rank])
        return left


def weigh_children(
    family: Family, forest: Forest, target_probs: Tensor, totals: Tensor, own: Tensor, weight: Tensor
) -> Siblings:
    """Test all children of a family whose nodes have the weights `own` (n,), and return what is left of each node.

    `totals` (N,) are the row sums of target_probs (N, V). Fills `weight` (N,), zero before, at the children.
    """
    at_tokens = target_probs[family.nodes[:, None], family.child_tokens] * own[:, None].to(target_probs.dtype)
    mass, taken = own * totals[family.nodes], torch.zeros_like(own)  # (n,)
    siblings = Siblings(family, forest, target_probs, own, 1 - own, mass, taken, at_tokens)
    for rank, children in enumerate(family.sampled):
        weight[children] = _weigh_sampled(siblings, rank, children)
    if family.placed.shape[1]:
        weight.index_add_(0, family.placed.flatten(), _weigh_placed(siblings).flatten())
    return siblings


def residual_of(siblings: Siblings, node: int) -> Tensor:
    """Residual (V,), not normalised, of one node of a tested family."""
    row, forest = siblings.family.order.index(node), siblings.forest
    num_sampled = len(forest.sampled_children(node))
    if num_sampled:
        left = siblings.left(slice(row, row + 1), num_sampled - 1)[0]  # (V,)
    else:
        left = siblings.target_probs[node].clone()  # (V,)
    left[[forest.token_list[c] for c in forest.placed_children(node)]] = 0
    return left


def _weigh_sampled(siblings: Siblings, rank: int, children: Tensor) -> Tensor:
    """Weights (m,) of the sampled children of one rank, which the first m nodes have."""
    forest, m = siblings.forest, len(children)
    mass, slack = siblings.mass[:m], siblings.slack[:m]
    share, wanted = mass + slack, siblings.at_tokens[:m, rank].to(torch.float64, copy=True)  # (m,) G and left(x)
    siblings.take(share / forest.kept[children])
    for part in _parts(m, siblings.target_probs):
        left = siblings.left(part, rank)  # (rows of the part, V)
        siblings.mass[part] = left.sum(-1)
        siblings.at_tokens[part] = left.gather(1, siblings.family.child_tokens[part])
    return _child_weight(wanted, share * forest.proposed[children], mass + slack)


def _weigh_placed(siblings: Siblings) -> Tensor:
    """Weights (n, M) of all placed children at once.

    A point mass takes its own token and nothing else, so the steps have a closed form: G falls by what was wanted.
    """
    mask, mass, slack = siblings.family.placed_mask, siblings.mass[:, None], siblings.slack[:, None]
    wanted = siblings.at_tokens[:, -mask.shape[1] :].double() * mask  # (n, M)
    after = _snap(mass - wanted.cumsum(-1), mass, siblings.target_probs.dtype)  # (n, M)
    before = torch.cat([mass, after[:, :-1]], dim=1)  # (n, M)
    siblings.mass = after[:, -1]
    return _child_weight(wanted, before + slack, after + slack)


def _parts(num_rows: int, probs: Tensor) -> Iterator[slice]:
    """Slices of rows to form at once: all on an accelerator, as many as a CPU's cache holds otherwise."""
    fitting = max(1, SCRATCH_BYTES // (probs.shape[1] * probs.element_size())) if probs.is_cpu else num_rows
    for start in range(0, num_rows, fitting):
        yield slice(start, min(start + fitting, num_rows))


def _child_weight(wanted: Tensor, offered: Tensor, rest: Tensor) -> Tensor:
    """min(1, wanted / offered); exactly 1 where nothing is left to be drawn elsewhere (`rest` is 0)."""
    return torch.where(rest > 0, _ratio(wanted, offered).clamp_(max=1), wanted > 0)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole with part <= whole up to rounding; 0/0, an event that is never reached, is 0."""
    return part / whole.clamp(min=torch.finfo(torch.float64).tiny)


def _snap(mass: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`mass` with everything below the rounding of a sum of size `scale` set to 0, so that empty residuals never fire.

    The mass was found by subtracting tokens from a sum over the vocabulary; 16 units in the last place bound the
    rounding of that sum, which torch accumulates pairwise.
    """
    return torch.where(mass > 16 * torch.finfo(dtype).eps * scale, mass, 0.0)
