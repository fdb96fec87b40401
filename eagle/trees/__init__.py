"""Draft trees: the policies that grow them, by name. No model inside: a `Proposer` answers with draft logits.

Which nodes exist may depend on the tokens of deterministic nodes and on the path above a slot, never on the identity
of a token still to be drawn: that would change its law and break losslessness (`eagle.trees.growth` has the proof).
"""

from eagle.trees.automatic import POLICIES, AutoTree, hybrid, make_policy, mixed, parse_policy, sampled
from eagle.trees.budgeted import BudgetedTree
from eagle.trees.costs import CostModel
from eagle.trees.coupled import CoupledTree, CoupledValues
from eagle.trees.deterministic import EagleTree, rerank
from eagle.trees.fixed import IidPaths, SampledChain, WithoutReplacement
from eagle.trees.protocols import Proposer, TreePolicy
from eagle.trees.valued import Acceptance, ValuedTree

__all__ = [
    "POLICIES",
    "Acceptance",
    "AutoTree",
    "BudgetedTree",
    "CostModel",
    "CoupledTree",
    "CoupledValues",
    "EagleTree",
    "IidPaths",
    "Proposer",
    "SampledChain",
    "TreePolicy",
    "ValuedTree",
    "WithoutReplacement",
    "hybrid",
    "make_policy",
    "mixed",
    "parse_policy",
    "rerank",
    "sampled",
]
