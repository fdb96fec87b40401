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

    left: Tensor | None  # (n, V) unnormalised residual before placed children; None: w p, untouched by sampled ones
    dtype: torch.dtype  # of the laws, whose rounding `mass` carries
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
    siblings = Siblings(None, target_probs.dtype, own * totals[family.nodes], 1 - own)
    if family.sampled:
        siblings.left = family.rows_of(target_probs) * own[:, None].to(target_probs.dtype)  # (n, V)
        _weigh_sampled(siblings, family, forest, weight)
        wanted = siblings.left.gather(1, family.placed_tokens).double()  # (n, M)
    else:  # point masses take their own tokens and nothing else: no row is read
        wanted = target_probs[family.nodes[:, None], family.placed_tokens].double() * own[:, None]  # (n, M)
    if family.placed.shape[1]:
        weight.index_add_(0, family.placed.flatten(), _weigh_placed(siblings, family, wanted).flatten())
    return siblings


def left_after_children(forest: Forest, target_probs: Tensor, totals: Tensor, own: Tensor, node: int) -> Tensor:
    """Unnormalised residual (V,) of one node with the weight `own` (), formed alone."""
    if not forest.children[node]:
        return target_probs[node]
    left = target_probs[node].clone()  # (V,)
    if forest.sampled_children(node):
        family, scratch = forest.family([node]), torch.zeros_like(totals, dtype=torch.float64)  # (N,)
        left = weigh_children(family, forest, target_probs, totals, own[None], scratch).left[0]
    left[[forest.token_list[c] for c in forest.placed_children(node)]] = 0
    return left


def _weigh_sampled(siblings: Siblings, family: Family, forest: Forest, weight: Tensor) -> None:
    proposal = family.rows_of(forest.proposals, len(family.sampled[0]))  # (n, V)
    kept = None  # (n,) mass of `proposal` after the tokens drawn before were removed; None: all of it
    for rank, (children, tokens) in enumerate(zip(family.sampled, family.sampled_tokens, strict=True)):
        n = len(children)
        if rank and not forest.replacement:
            proposal = _remove(proposal[:n], family.sampled_tokens[rank - 1][:n], in_place=rank > 1)
            kept = proposal.sum(-1)
        weight[children] = _weigh_drawn(siblings, proposal[:n], kept, tokens)


def _remove(proposal: Tensor, tokens: Tensor, in_place: bool) -> Tensor:
    """proposal (n, V) without the tokens (n, 1); the tree's own rows are never written to."""
    return proposal.scatter_(1, tokens, 0) if in_place else proposal.scatter(1, tokens, 0)


def _weigh_drawn(siblings: Siblings, proposal: Tensor, kept: Tensor | None, tokens: Tensor) -> Tensor:
    """Weights (n,) of one sampled child of the first n nodes, drawn from proposal (n, V) / kept (n,); tokens (n, 1)."""
    n = len(tokens)
    left, mass, slack = siblings.left[:n], siblings.mass[:n], siblings.slack[:n]
    share = mass + slack if kept is None else (mass + slack) / kept  # (n,) G, per unit of `proposal`
    wanted, offered = left.gather(1, tokens)[:, 0].double(), proposal.gather(1, tokens)[:, 0].double()  # (n,)
    left.addcmul_(proposal, share[:, None].to(left.dtype), value=-1).relu_()
    mass.copy_(left.sum(-1))
    return _child_weight(wanted, share * offered, mass + slack)


def _weigh_placed(siblings: Siblings, family: Family, wanted: Tensor) -> Tensor:
    """Weights (n, M) of all placed children at once; wanted (n, M) is what is left of the target at their tokens.

    A point mass takes its own token and nothing else, so the steps have a closed form: G falls by what was wanted.
    """
    wanted, mass, slack = wanted * family.placed_mask, siblings.mass[:, None], siblings.slack[:, None]
    after = _snap(mass - wanted.cumsum(-1), mass, siblings.dtype)  # (n, M)
    before = torch.cat([mass, after[:, :-1]], dim=1)  # (n, M)
    siblings.mass = after[:, -1]
    return _child_weight(wanted, before + slack, after + slack)


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
