"""Honest slot values: how often slots of each depth are accepted, measured on held-out contexts.

A tree of sampled siblings shows both numbers a valued tree predicts with, since its rows are the draft's whole laws:

    alpha_k     accepted k-th sampled children / accepted nodes that have one        (exact, from the law of `hsd`)
    placed      target probability / draft probability of the tokens a tree would place, below accepted nodes

Letters: N nodes including the root, M placed tokens of a node, V vocabulary.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

import hsd_verify
from eagle.target import Target
from eagle.tree import Acceptance, WithoutReplacement
from evaluation.laboratory import SAMPLINGS
from evaluation.laboratory_contexts import Context
from evaluation.laboratory_growth import Collector, DraftSource, Growing, PathScores
from hsd_verify import DraftTree

BRANCHING = (4, 3, 2, 1, 1)
NUM_PLACED = 4  # M
LEAST_ALPHA = 1e-3
NUM_DRAWS = 8  # trees a context
LEAST_MASS = 2.0  # accepted nodes a level needs for numbers of its own


class AcceptanceSums:
    """Adds up accepted parents and children by level and rank."""

    def __init__(self) -> None:
        self._parents: dict[tuple[int, int], float] = defaultdict(float)  # (level, rank)
        self._children: dict[tuple[int, int], float] = defaultdict(float)
        self._draft_mass: dict[int, float] = defaultdict(float)  # level
        self._target_mass: dict[int, float] = defaultdict(float)

    def add(self, tree: DraftTree, target_probs: Tensor) -> None:
        """One tree of sampled siblings and the target's laws (N, V)."""
        assert tree.draft_probs is not None and not tree.replacement
        reach = hsd_verify.law(tree, target_probs, "hsd").reach.tolist()
        for node, children in enumerate(tree.children):
            for rank, child in enumerate(children):
                self._parents[tree.depth[node], rank] += reach[node]
                self._children[tree.depth[node], rank] += reach[child]
            if children:
                best = tree.draft_probs[node].topk(NUM_PLACED)  # (M,)
                self._draft_mass[tree.depth[node]] += reach[node] * float(best.values.sum())
                self._target_mass[tree.depth[node]] += reach[node] * float(target_probs[node, best.indices].sum())

    def fitted(self) -> Acceptance:
        """Numbers of every level that was reached often enough; deeper ones take the last."""
        levels = [level for level in range(len(BRANCHING)) if self._parents[level, 0] >= LEAST_MASS]
        if not levels:
            raise ValueError(f"no level was reached {LEAST_MASS:g} times: fit on more contexts")
        sampled = tuple(tuple(self._alpha(level, rank) for rank in range(BRANCHING[level])) for level in levels)
        placed = tuple(round(self._target_mass[level] / self._draft_mass[level], 3) for level in levels)
        return Acceptance(self._filled(sampled), placed)

    def _alpha(self, level: int, rank: int) -> float:
        return max(round(self._children[level, rank] / self._parents[level, rank], 3), LEAST_ALPHA)

    @staticmethod
    def _filled(sampled: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
        """Levels with fewer siblings take the missing ranks from the level above, in proportion to the first rank."""
        filled = [sampled[0]]
        for level in sampled[1:]:
            above, scale = filled[-1], level[0] / filled[-1][0]
            missing = (max(round(alpha * scale, 3), LEAST_ALPHA) for alpha in above[len(level) :])
            filled.append((*level, *missing))
        return tuple(filled)


@torch.inference_mode()
def fit(target: Target, source: DraftSource, contexts: Iterable[Context], sampling: str) -> Acceptance:
    """Acceptance of a draft at one sampling, from a few trees a context."""
    sums = AcceptanceSums()
    for seed, context in enumerate(contexts):
        cache = target.new_cache()
        features = target.prefill(torch.tensor(context.ids[:-1], device=target.device), cache).features
        scores = PathScores(target, cache, context.ids[-1])
        draws = [
            Growing(WithoutReplacement(BRANCHING), SAMPLINGS[sampling], NUM_DRAWS * seed + i) for i in range(NUM_DRAWS)
        ]
        collector = Collector(draws)
        source.propose(context.ids, features, scores, collector, len(BRANCHING))
        scores.score(collector.trees)
        for tree in collector.trees:
            sums.add(tree, SAMPLINGS[sampling].law(scores.logits(tree)))
    return sums.fitted()
