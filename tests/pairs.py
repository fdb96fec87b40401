"""Every tree policy, at a size that a tiny model decodes in a moment, and the verifiers that fit it."""

from eagle.judging import COUPLED
from eagle.trees import (
    AutoTree,
    BudgetedTree,
    CostModel,
    CoupledTree,
    EagleTree,
    IidPaths,
    SampledChain,
    TreePolicy,
    ValuedTree,
    WithoutReplacement,
    hybrid,
    mixed,
    sampled,
)

COSTS = CostModel((1, 64), (20.0, 40.0), draft_step_ms=0.1)
NAMED: dict[str, TreePolicy] = {  # every name of `--tree`
    "auto": AutoTree(8),
    "eagle": EagleTree(8, depth=3, top_k=3),
    "coupled": CoupledTree(8, depth=3, top_k=3),
    "chain": SampledChain(3),
    "iid": IidPaths(2, depth=2),
    "without_replacement": WithoutReplacement((2, 2)),
    "sampled": sampled(8, depth=4, max_sampled=3),
    "hybrid": hybrid(8, depth=4, max_placed=3),
    "mixed": mixed(8, depth=4, max_placed=3),
    "budgeted": BudgetedTree(ValuedTree(8, 0.005, depth=4, max_placed=3, max_sampled=3), COSTS),
}
EVERY = {"hsd", "walk", "tokenwise"}  # verify every tree; where a policy has a depth of one path or draws all, more do
FITTING = {name: EVERY | {COUPLED} for name in NAMED} | {
    "coupled": {COUPLED},
    "chain": EVERY | {COUPLED, "block", "hsd_capped", "hsd_multidraft", "traversal"},
    "iid": EVERY | {COUPLED, "hsd_multidraft"},
    "without_replacement": EVERY | {COUPLED, "traversal"},
    "sampled": EVERY | {COUPLED, "traversal"},
}
PAIRS = [(name, verifier) for name, fitting in FITTING.items() for verifier in sorted(fitting)]
