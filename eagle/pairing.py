"""Do a tree and a verifier fit? Tried on a toy before models are loaded, so that nobody has to keep a list of pairs.

The policy grows trees from made-up laws and the judge decides them: what one of the two refuses here, it would refuse
in the first round that looks like this.

Letters: N tree nodes including the root.
"""

from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from eagle.judging import judge, settled
from eagle.sampling import Sampling, seeded
from eagle.seeds import stable_number
from eagle.trees.budgeted import BudgetedTree
from eagle.trees.costs import CostModel
from eagle.trees.exact import TableProposer
from eagle.trees.protocols import Proposer, TreePolicy, grown
from eagle.trees.scaffold import EMPTY, Scaffold
from eagle.trees.scaffolded import with_scaffold
from eagle.vocab import DraftVocabulary
from hsd_verify.exact.processes import Text

VOCAB_SIZE, DEPTH = 32, 4
SHARPNESS = (1.0, 6.0)  # of the made-up laws: a draft that knows little, and one that is sure
FREE = CostModel((1, 2), (1.0, 1.0))  # in place of what is measured once models are there
SUGGESTED = Scaffold((3, 5, 7), (0.9, 0.9, 0.9))  # by a lookup, in some of the rounds


def check_pair(policy: TreePolicy, verifier: str, sampling: Sampling, lookup: bool = False) -> None:
    """Raises ValueError with the remedy where the verifier cannot decide trees of the policy, or one does not exist.

    `auto` is the verifier that the trees are made for; with `lookup` they also hold what a lookup suggests.
    """
    verifier, sampling = settled(verifier, policy.verifier), sampling.for_drafts  # what names tokens fits every tree
    if isinstance(policy, BudgetedTree) and policy.cost is None:
        policy = replace(policy, cost=FREE)
    for sharpness, scaffold in product(SHARPNESS, (EMPTY, SUGGESTED) if lookup else (EMPTY,)):
        judged = judge(sampling, verifier, seeded(0))
        try:
            tree = grown(policy, _proposer(sharpness, scaffold), judged.chance(1), DEPTH)
            judged.verdict(tree, torch.zeros(tree.num_nodes, VOCAB_SIZE), 1)
        except ValueError as refusal:
            beside = " beside a lookup" if scaffold.tokens else ""
            where = f"verifier '{verifier}' does not fit this tree{beside} at temperature {sampling.temperature:g}"
            raise ValueError(f"{where}: {refusal}") from None


def _proposer(sharpness: float, scaffold: Scaffold) -> Proposer:
    def logits(text: Text) -> Tensor:
        return sharpness * torch.randn(VOCAB_SIZE, generator=seeded(stable_number(text)))

    table = TableProposer(DraftVocabulary.first(VOCAB_SIZE, VOCAB_SIZE), logits, (0,))
    return with_scaffold(table, scaffold)
