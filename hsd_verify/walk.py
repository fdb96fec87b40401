"""The target walk: draw from the target, descend while the token is a child. Lossless on every tree.

Letters: N nodes including the root, V vocabulary.

On a deterministic tree no lossless verifier accepts more: it attains `Pr(v accepted) <= p(v)` at every node at once.
With one-hot target rows (temperature 0) it is greedy verification, for any tree. Where the target's token after every
node is settled before (temperature 0, or noise that is fixed for the answer) no law is needed: `verify_chosen`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hsd_verify.outcome import Law, Verdict, verdict_of
from hsd_verify.tree import DraftTree


def walk_law(tree: DraftTree, target_probs: Tensor, totals: Tensor) -> Law:
    """Law of the target walk; target_probs (N, V), `totals` (N,) its row sums.

    Of siblings with one token the first in test order is entered.
    """
    descend = _descend_probs(tree, target_probs)
    scale = totals.tolist()
    stop, reach = [0.0] * tree.num_nodes, [1.0] * tree.num_nodes
    for node, children in enumerate(tree.children):
        for child in children:
            reach[child] = reach[node] * descend[child] / scale[node]
        left = scale[node] - sum(descend[c] for c in children)
        stop[node] = reach[node] * _snap(left, target_probs.dtype) / scale[node]

    return Law(tree, target_probs, target_probs.new_tensor(stop), lambda v: _without_children(tree, target_probs, v))


def greedy_law(tree: DraftTree, target_probs: Tensor, totals: Tensor) -> Law:
    """The walk at temperature 0; raises `ValueError` unless every row of target_probs (N, V) is one-hot."""
    peaks = target_probs.amax(-1)  # (N,)
    if (peaks != 1).any():
        node = int((peaks != 1).nonzero()[0])
        raise ValueError(
            f"target_probs[{node}] (node {node}) peaks at {float(peaks[node])}, greedy needs one-hot rows: "
            "pass one_hot(logits.argmax(-1)), or use verifier 'walk' or 'hsd' above temperature 0"
        )
    return walk_law(tree, target_probs, totals)


def verify_chosen(tree: DraftTree, chosen: Tensor | Callable[[int], int]) -> Verdict:
    """Descend while the token that was chosen after a node is a child of it; the one that is none follows the path.

    `chosen`: after every node the one token that the target takes there, decided before and whatever was drafted,
    (N,) or a function node -> token, asked along the path only. At temperature 0 that is its best token, and all
    verifiers come to this; under coupled decoding its best token with the answer's noise. The text is the target's own,
    token for token. Raises `ValueError` unless there is one token a node.
    """
    if not callable(chosen):
        if chosen.shape != tree.parents.shape:
            raise ValueError(
                f"chosen has shape {tuple(chosen.shape)}, the tree has {tree.num_nodes} nodes: pass "
                "logits.argmax(-1), entry v being the token that the target takes after node v"
            )
        chosen = chosen.tolist().__getitem__
    node, token = 0, chosen(0)
    while (child := next((c for c in tree.children[node] if tree.token_list[c] == token), None)) is not None:
        node, token = child, chosen(child)
    return verdict_of(tree, node, token)


def _descend_probs(tree: DraftTree, target_probs: Tensor) -> list[float]:
    """Target probability of every node's token after its parent; 0 for later siblings with the same token."""
    probs = tree.entries(target_probs).tolist()  # N
    for children in tree.children:
        seen: set[int] = set()
        for child in children:
            probs[child] *= tree.token_list[child] not in seen
            seen.add(tree.token_list[child])
    return probs


def _snap(mass: float, dtype: torch.dtype) -> float:
    """Mass left beside the children; 0 below the rounding of a sum over V, so that empty residuals never fire."""
    return mass if mass > 16 * torch.finfo(dtype).eps else 0.0


def _without_children(tree: DraftTree, target_probs: Tensor, node: int) -> Tensor:
    left = target_probs[node].clone()  # (V,)
    left[[tree.token_list[c] for c in tree.children[node]]] = 0
    return left
