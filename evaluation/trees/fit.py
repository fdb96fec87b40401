"""Honest slot values: how often slots of each depth and confidence are accepted, measured on held-out contexts.

A tree of sampled siblings shows both numbers a valued tree predicts with, since its rows are the draft's whole laws:

    alpha_k     accepted k-th sampled children / accepted nodes that have one        (exact, from the law of `hsd`)
    placed      target probability / draft probability of the tokens a tree would place, below accepted nodes

Letters: N nodes including the root, M placed tokens of a node, V vocabulary.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

import hsd_verify
from eagle.chance import Chance
from eagle.engine.target import Target
from eagle.sampling import seeded
from eagle.trees import Acceptance, WithoutReplacement
from evaluation.trees.contexts import Context
from evaluation.trees.laboratory import SAMPLINGS
from evaluation.trees.shared import DraftSource, Growing, PathScores, grow_all
from hsd_verify import DraftTree

BRANCHING = (5, 3, 2, 1, 1)
NUM_PLACED = 4  # M
LEAST_ALPHA = 1e-3
NUM_DRAWS = 8  # trees a context
CONFIDENCE = (0.15, 0.35, 0.65)  # of the draft's largest probability
LEAST_MASS = 2.0  # accepted nodes a class needs for numbers of its own

Class = tuple[int, int]  # 0 the root, 1 all nodes below it; class of confidence


class AcceptanceSums:
    """Adds up accepted parents and children by level, confidence and rank."""

    def __init__(self) -> None:
        self._parents: dict[Class, list[float]] = defaultdict(lambda: [0.0] * BRANCHING[0])  # by rank
        self._children: dict[Class, list[float]] = defaultdict(lambda: [0.0] * BRANCHING[0])
        self._draft_mass = [0.0, 0.0]  # at the root, below it
        self._target_mass = [0.0, 0.0]

    def add(self, tree: DraftTree, target_probs: Tensor, sharpness: float = 1.0) -> None:
        """One tree of sampled siblings and the target's laws (N, V).

        `sharpness`: temperature of the law that values are read off / that of the law the tree was drawn from.
        """
        assert tree.draft_probs is not None and not tree.replacement
        reach = hsd_verify.law(tree, target_probs, "hsd").reach.tolist()
        for node, children in enumerate(tree.children):
            if not children:
                continue
            law = tree.draft_probs[node] ** (1 / sharpness)
            level, law = min(tree.depth[node], 1), law / law.sum()
            group = level, sum(float(law.max()) > end for end in CONFIDENCE)
            for rank, child in enumerate(children):
                self._parents[group][rank] += reach[node]
                self._children[group][rank] += reach[child]
            best = law.topk(NUM_PLACED)  # (M,)
            self._draft_mass[level] += reach[node] * float(best.values.sum())
            self._target_mass[level] += reach[node] * float(target_probs[node, best.indices].sum())

    def fitted(self) -> Acceptance:
        """Numbers of the root and of all nodes below it, in classes of confidence.

        Raises ValueError when the root was read too few times. A class met too rarely takes the numbers of all.
        """
        levels: list[tuple[tuple[float, ...], ...]] = []
        for level in (0, 1):
            total = self._alphas([(level, place) for place in range(len(CONFIDENCE) + 1)])
            if total is None and not levels:
                raise ValueError(f"no root was read {LEAST_MASS:g} times: fit on more contexts")
            spare = total or levels[0][0]
            rows = [self._alphas([(level, place)]) or spare for place in range(len(CONFIDENCE) + 1)]
            levels.append(tuple(_filled(row, spare) for row in rows))
        placed = [round(t / d, 3) for t, d in zip(self._target_mass, self._draft_mass, strict=True) if t > 0 and d > 0]
        return Acceptance(tuple(levels), tuple(placed), CONFIDENCE)

    def pooled(self) -> Acceptance:
        """One row a class of confidence for all levels: more rounds behind every number. Raises as `fitted` does."""
        levels, places = (0, 1), range(len(CONFIDENCE) + 1)
        total = self._alphas([(level, place) for level in levels for place in places])
        if total is None:
            raise ValueError(f"no node was read {LEAST_MASS:g} times: fit on more contexts")
        rows = [self._alphas([(level, place) for level in levels]) or total for place in places]
        placed = round(sum(self._target_mass) / sum(self._draft_mass), 3)
        return Acceptance((tuple(_filled(row, total) for row in rows),), (placed,), CONFIDENCE)

    def _alphas(self, groups: list[Class]) -> tuple[float, ...] | None:
        """alpha by rank over some classes together, as far as ranks were met; None where the first one was not."""
        parents, children = (
            [sum(ranks) for ranks in zip(*(sums[group] for group in groups), strict=True)]
            for sums in (self._parents, self._children)
        )
        met = sum(mass >= LEAST_MASS for mass in parents)  # later siblings are never met more often
        pairs = zip(children[:met], parents[:met], strict=True)
        return tuple(max(round(child / parent, 3), LEAST_ALPHA) for child, parent in pairs) or None


def _filled(row: tuple[float, ...], spare: tuple[float, ...]) -> tuple[float, ...]:
    """Ranks a class has no number for take those of all classes, in proportion to the first rank."""
    missing = (max(round(alpha * row[0] / spare[0], 3), LEAST_ALPHA) for alpha in spare[len(row) :])
    return (*row, *missing)


def fit(
    target: Target, source: DraftSource, contexts: Iterable[Context], sampling: str, draft_temperature: float = 1.0
) -> Acceptance:
    """Acceptance of a draft at one sampling, from a few trees a context; `draft_temperature` as in a valued tree."""
    sums = AcceptanceSums()
    for _ in add_rounds(sums, target, source, contexts, sampling, draft_temperature):
        pass
    return sums.fitted()


@torch.inference_mode()
def add_rounds(
    sums: AcceptanceSums,
    target: Target,
    source: DraftSource,
    contexts: Iterable[Context],
    sampling: str,
    draft_temperature: float = 1.0,
) -> Iterator[Context]:
    """Add a few trees of every context to the sums; yields each context when it is done."""
    drafting = SAMPLINGS[sampling].scaled(draft_temperature)
    sharpness = max(1.0, SAMPLINGS[sampling].temperature) / drafting.temperature
    for seed, context in enumerate(contexts):
        cache = target.new_cache()
        features = target.prefill(torch.tensor(context.ids[:-1], device=target.device), cache).features
        scores = PathScores(target, cache, context.ids[-1])
        chances = (Chance(drafting, seeded(NUM_DRAWS * seed + i, target.device)) for i in range(NUM_DRAWS))
        draws = [Growing(WithoutReplacement(BRANCHING), chance) for chance in chances]
        with source.open_round(context.ids, features, scores) as proposer:
            trees = grow_all(draws, proposer, len(BRANCHING))
        scores.score(trees)
        for tree in trees:
            sums.add(tree, SAMPLINGS[sampling].law(scores.logits(tree)), sharpness)
        yield context
