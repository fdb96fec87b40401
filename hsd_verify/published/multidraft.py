"""Multi-draft HSD (arXiv 2601.05724): i.i.d. paths verified one after the other, each from where the last one stopped.

Letters: N nodes including the root, V vocabulary.

Path 1 is scanned backwards as in `chain.py` and *committed* to at the node where the scan stops. What its residual law
wants there is the target of the next path that shares the committed prefix, which is scanned from that node on with the
ratio restarted at 1 (carrying it over is lossy), and so on. Of K i.i.d. paths this accepts more than the recursion.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from hsd_verify.outcome import Law
from hsd_verify.refusals import require_paths
from hsd_verify.tree import DraftTree


@dataclass(frozen=True)
class _Commitment:
    """One way the paths so far can have gone."""

    prob: float
    node: int  # the last accepted node
    target: Tensor  # (V,) law of the token wanted after it


def multidraft_law(tree: DraftTree, target_probs: Tensor, totals: Tensor) -> Law:
    """Law of multi-draft HSD with capped ratios, restarted for every draft; target_probs (N, V).

    A node can be committed to along several histories, so its residual is their mixture. Raises `ValueError` unless
    the tree is a bundle of i.i.d. paths that part at the root.
    """
    require_paths(tree, "hsd_multidraft")
    commitments = [_Commitment(1.0, 0, target_probs[0])]
    for path in _paths(tree):
        commitments = [later for now in commitments for later in _scan(now, path, tree, target_probs)]
    ends: dict[int, list[_Commitment]] = defaultdict(list)
    for end in commitments:
        ends[end.node].append(end)
    stop = [sum(end.prob for end in ends[node]) for node in range(tree.num_nodes)]

    def form_residual(node: int) -> Tensor:
        return torch.stack([end.prob * end.target for end in ends[node]]).sum(0)  # (V,)

    return Law(tree, target_probs, target_probs.new_tensor(stop), form_residual)


def _paths(tree: DraftTree) -> list[list[int]]:
    """Nodes of every path, the root included."""
    leaves = [v for v in range(tree.num_nodes) if not tree.children[v]]
    return sorted([0, *tree.path(leaf)] for leaf in leaves)


def _scan(now: _Commitment, path: list[int], tree: DraftTree, target_probs: Tensor) -> Iterator[_Commitment]:
    """What one more path makes of a commitment; the commitment itself if the path does not go through its text."""
    start = tree.depth[now.node]
    if start + 1 >= len(path) or tree.path_tokens(path[start]) != tree.path_tokens(now.node):
        yield now
        return
    remaining = now.prob
    for node, fire, wanted in reversed(list(_weigh(now, path[start:], tree, target_probs))):
        if remaining * fire > 0:
            yield _Commitment(remaining * fire, node, wanted)
        remaining *= 1 - fire


def _weigh(
    now: _Commitment, path: list[int], tree: DraftTree, target_probs: Tensor
) -> Iterator[tuple[int, float, Tensor]]:
    """Each node of a path, the probability to stop there and the law wanted after it; the first is committed."""
    weight, target = 1.0, now.target
    for node, child in pairwise(path):
        draft, token = tree.proposals[node], tree.token_list[child]
        left = (target * weight).sub_(draft).relu_()  # (V,)
        excess = float(left.sum())
        whole = excess + (1 - weight)
        yield (now.node if node == path[0] else node), (excess / whole if excess > 0 else 0.0), left / (excess or 1.0)
        ratio = float(target[token]) / float(draft[token])
        weight = min(1.0, weight * ratio) if whole > 0 else 1.0  # whole = 0: p = q, accepted for sure
        target = target_probs[child]
    yield path[-1], weight, target
