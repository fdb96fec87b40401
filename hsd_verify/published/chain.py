"""Rules published for one sampled path: block verification and hierarchical speculative decoding.

Letters: N nodes including the root, V vocabulary. Node i of a chain is its i-th token, 0 the root.

With X the drafted tokens, p and q the laws after node i, both rules scan from the deepest node up and stop at node i
with a probability made of the excess and the deficit of one branch, given the ratio r of the joint probabilities of
X[1..i]:

    excess(i)  = sum_x [r p(x) - q(x)]+          deficit(i) = sum_x [q(x) - r p(x)]+ = excess(i) + 1 - r
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hsd_verify.outcome import Law, law_from_fire
from hsd_verify.refusals import require_chain
from hsd_verify.tree import DraftTree


def block_law(tree: DraftTree, target_probs: Tensor, totals: Tensor) -> Law:
    """Block Verification (arXiv 2403.10444, Algorithm 2), optimal for a chain; target_probs (N, V).

    Raises `ValueError` unless the tree is one sampled chain.
    """
    require_chain(tree, "block")
    weights, fire = [1.0], []
    for node, ratio in enumerate(_ratios(tree, target_probs).tolist()):
        excess = float(_excess(target_probs[node], tree.proposals[node], weights[node]).sum())
        whole = excess + (1 - weights[node])
        fire.append(excess / whole if excess > 0 else 0.0)
        weights.append(min(1.0, weights[node] * ratio) if whole > 0 else 1.0)  # whole = 0: p = q, accepted for sure

    def form_residual(node: int) -> Tensor:
        if node == tree.num_nodes - 1:
            return target_probs[node]
        return _excess(target_probs[node], tree.proposals[node], weights[node])

    return law_from_fire(tree, [*fire, weights[-1]], target_probs, form_residual)


def hsd_capped_law(tree: DraftTree, target_probs: Tensor, totals: Tensor) -> Law:
    """Hierarchical Speculative Decoding with capped prefix ratios (arXiv 2601.05724, Algorithm 2); target_probs (N, V).

    The ratio r of a prefix is capped at 1 token by token, also for the last one (the released code and the paper's
    listing forget that, and lose losslessness). Raises `ValueError` unless the tree is one sampled chain.
    """
    require_chain(tree, "hsd_capped")
    return hierarchical_law(tree, target_probs, cap=0.0)


def hierarchical_law(tree: DraftTree, target_probs: Tensor, cap: float) -> Law:
    """Law of the branch-divergence scan over a chain, the log of the prefix ratio capped at `cap` (inf: uncapped).

    Ratios are kept as logs: uncapped ones over- and underflow within a few dozen tokens.
    """
    logs, fire = [0.0], []
    for node, log_ratio in enumerate(_ratios(tree, target_probs).log().tolist()):
        excess, deficit = _divergences(target_probs[node], tree.proposals[node], logs[node])
        fire.append(min(1.0, excess / deficit) if excess > 0 and deficit > 0 else float(excess > 0))
        same = excess == deficit == 0  # p = q along the whole prefix: the next token is accepted for sure
        logs.append(0.0 if same else min(cap, logs[node] + log_ratio))
    fire.append(math.exp(min(0.0, logs[-1])))

    def form_residual(node: int) -> Tensor:
        if node == tree.num_nodes - 1:
            return target_probs[node]
        return scaled_difference(target_probs[node], tree.proposals[node], logs[node]).relu_()

    return law_from_fire(tree, fire, target_probs, form_residual)


def _ratios(tree: DraftTree, target_probs: Tensor) -> Tensor:
    """p / q of every drafted token, (N - 1,) float64; none for a bare root, which was proposed without any law."""
    if tree.num_nodes == 1:
        return target_probs.new_empty(0, dtype=torch.float64)
    parents, tokens = tree.parents[1:], tree.tokens[1:]
    return target_probs[parents, tokens].double() / tree.proposals[parents, tokens].double()


def _excess(target: Tensor, draft: Tensor, weight: float) -> Tensor:
    return (target * weight).sub_(draft).relu_()  # (V,)


def _divergences(target: Tensor, draft: Tensor, log_ratio: float) -> tuple[float, float]:
    """Excess and deficit of one branch, on a common scale."""
    difference = scaled_difference(target, draft, log_ratio)  # (V,)
    return float(difference.relu().sum()), float(difference.neg_().relu_().sum())


def scaled_difference(target: Tensor, draft: Tensor, log_ratio: float) -> Tensor:
    """r p - q (V,), divided by max(1, r) so that neither side overflows."""
    return target * math.exp(min(0.0, log_ratio)) - draft * math.exp(min(0.0, -log_ratio))
