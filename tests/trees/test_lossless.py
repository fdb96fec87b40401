"""Losslessness of every policy with `hsd`, by listing every branch of its draws.

The bound of 1e-12 lies far above float64 rounding and far below a real error: see the tampered policies below it.
"""

from dataclasses import replace

import pytest

from eagle.sampling import Sampling
from eagle.trees import (
    Acceptance,
    AutoTree,
    BudgetedTree,
    CostModel,
    EagleTree,
    IidPaths,
    SampledChain,
    TreePolicy,
    ValuedTree,
    WithoutReplacement,
)
from eagle.trees.automatic import partly_sampled
from tests.trees.toy import policy_error, toy_trees

EXACT = 1e-12

CHEAP_BELOW_4 = CostModel((1, 4, 8), (10.0, 10.0, 14.0), draft_step_ms=0.5)

HOPEFUL = Acceptance(sampled=(((0.6, 0.25, 0.15),),), placed=(1.0,))  # slots of both kinds, whatever the defaults
CONFIDENT = Acceptance(
    sampled=(((0.5, 0.3, 0.2), (0.8, 0.05, 0.01)), ((0.4, 0.3, 0.1), (0.7, 0.02, 0.01))), confidence=(0.45,)
)  # which slots a node gets follows its law, and so the tokens drawn above it


def valued(*budget, **fields) -> ValuedTree:
    return ValuedTree(*budget, **{"acceptance": HOPEFUL, "covered": 0.5, **fields})


POLICIES: dict[str, TreePolicy] = {
    "eagle": EagleTree(num_nodes=6, depth=3, top_k=2),
    "eagle-at-temperature": EagleTree(num_nodes=6, depth=3, top_k=2, draft_temperature=None),
    "chain": SampledChain(depth=3),
    "iid": IidPaths(num_paths=2, depth=2),
    "without-replacement": WithoutReplacement((2, 2)),
    "without-replacement-narrowing": WithoutReplacement((2, 1)),
    "hybrid": valued(7, 0.04, max_sampled=1, max_placed=1),
    "hybrid-no-room": valued(5, 0.02, max_sampled=1, max_placed=1),
    "hybrid-one-read": valued(8, 0.05, max_sampled=1, max_read=1),
    "hybrid-budget": valued(7, max_placed=1),
    "mixed-budget": valued(6, max_placed=1, max_sampled=2, descendants=0.3),
    "mixed": valued(7, 0.05, max_sampled=2, max_placed=1),
    "mixed-covered": valued(6, 0.03, max_sampled=3, covered=0.9),
    "budgeted": BudgetedTree(valued(7, 0.05, max_placed=2), CHEAP_BELOW_4, 0.1),
    "budgeted-mixed": BudgetedTree(valued(6, 0.02, max_placed=1, max_sampled=2), CHEAP_BELOW_4, 0.1, promise=0.9),
    "softened": valued(6, max_placed=1, max_sampled=2, draft_temperature=1.7),
    "sharpened": valued(6, max_placed=1, max_sampled=2, draft_temperature=0.6),
    "default": AutoTree(6),
    "partly-sampled": partly_sampled(6),
    "default-fitted": AutoTree(trees=((1.0, partly_sampled(6, CONFIDENT)),)),
    "budgeted-default": BudgetedTree(
        replace(BudgetedTree().valued, num_nodes=6, max_placed=1), CHEAP_BELOW_4, rate=0.05
    ),
    "colder-values": valued(6, max_placed=1, max_sampled=2, value_temperature=0.5),
    "warmer-values": valued(6, 0.05, max_placed=1, max_sampled=2, value_temperature=2.0),
    "confident-beam": valued(6, max_sampled=3, max_placed=0, acceptance=CONFIDENT),
    "confident-threshold": valued(7, 0.08, max_sampled=2, max_placed=1, acceptance=CONFIDENT),
    "sampled-beam": valued(6, 0.05, max_sampled=3, max_placed=0),
}
SHALLOW = {"iid", "without-replacement", "without-replacement-narrowing"}  # no deeper than two levels
SAMPLINGS = {
    "temperature-1": Sampling(1.0),
    "temperature-0.7": Sampling(0.7),
    "top-k": Sampling(1.0, top_k=2),
    "top-p": Sampling(0.9, top_p=0.8),
    "greedy": Sampling(0.0),
}
VOCABULARIES = {"all-of-3": ([0, 1, 2], 3), "3-of-4": ([0, 2, 3], 4)}


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_lossless(name, sampling, vocabulary):
    depth = 2 if name in SHALLOW else 3
    assert policy_error(POLICIES[name], SAMPLINGS[sampling], *VOCABULARIES[vocabulary], depth) < EXACT


@pytest.mark.parametrize("name", [name for name in POLICIES if not name.startswith("eagle")])
def test_what_is_listed_above_is_random(name):
    """Otherwise the enumeration would show nothing: some node of every policy's trees is drawn."""
    trees = list(toy_trees(POLICIES[name], Sampling(1.0), [0, 1, 2], 3, 2))
    assert len(trees) > 1 and any(any(tree.sampled_list) for _, tree in trees)
    assert sum(prob for prob, _ in trees) == pytest.approx(1)
