"""Draft trees: the policies that grow them, by name. No model inside: a `Proposer` answers with draft logits.

Which nodes exist may depend on the tokens of deterministic nodes and on the path above a slot, never on the identity
of a token still to be drawn: that would change its law and break losslessness (`eagle.policies.growth` has the proof).
"""

from eagle.policies.automatic import POLICIES, AutoTree, hybrid, make_policy, mixed, parse_policy, sampled
from eagle.policies.budgeted import BudgetedTree
from eagle.policies.costs import CostModel
from eagle.policies.deterministic import EagleTree, rerank
from eagle.policies.fixed import IidPaths, SampledChain, WithoutReplacement
from eagle.policies.protocols import Draw, Proposer, TreePolicy, draw_rows
from eagle.policies.valued import Acceptance, ValuedTree

__all__ = [
    "POLICIES",
    "Acceptance",
    "AutoTree",
    "BudgetedTree",
    "CostModel",
    "Draw",
    "EagleTree",
    "IidPaths",
    "Proposer",
    "SampledChain",
    "TreePolicy",
    "ValuedTree",
    "WithoutReplacement",
    "draw_rows",
    "hybrid",
    "make_policy",
    "mixed",
    "parse_policy",
    "rerank",
    "sampled",
]
