"""A draft small enough to list, with laws in float64, and the law of the text after one round.

Letters: V target vocabulary, Vd draft vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

import hsd_verify
from eagle.sampling import Sampling
from eagle.trees import TreePolicy
from eagle.trees.exact import TableProposer, all_trees, random_logits
from eagle.vocab import DraftVocabulary
from hsd_verify import DraftTree
from hsd_verify.exact.enumerate import Model, Text, target_rows, text_law


def logits_after(text: Text, size: int, seed: int) -> Tensor:
    """Unrelated logits (size,) for every text, in float64, apart enough for laws far from uniform."""
    return 1.5 * random_logits(text, size, seed)


def table_model(size: int, seed: int, sampling: Sampling) -> Model:
    """A target: the law after every text, by the same function that makes the draft's laws."""
    return lambda text: sampling.law(logits_after(text, size, seed))


def toy_proposer(draft_ids: list[int], vocab_size: int, seed: int, prefix: Text = ()) -> TableProposer:
    """Drafts after `prefix`, knowing Vd of the V tokens."""
    vocabulary = DraftVocabulary.from_target_ids(torch.tensor(draft_ids), vocab_size)
    return TableProposer(lambda text: logits_after(text, len(draft_ids), seed), vocabulary, prefix)


def round_law(trees: Iterator[tuple[float, DraftTree]], target: Model, length: int, verifier: str = "hsd") -> Tensor:
    """Law (V,) * length of the text after one round, everything after the round drawn from the target."""
    law = torch.zeros((len(target(())),) * length, dtype=torch.float64)
    for prob, tree in trees:
        outcome = hsd_verify.law(tree, target_rows(tree, target), verifier)
        for node, stop in enumerate(outcome.stop.tolist()):
            if stop > 0:
                _add_continuations(law, tree, node, prob * stop * outcome.residual(node), target)
    return law


def _add_continuations(law: Tensor, tree: DraftTree, node: int, masses: Tensor, target: Model) -> None:
    path = tuple(tree.token_list[v] for v in tree.path(node))
    for token, mass in enumerate(masses.tolist()):
        text, left = (*path, token), law.dim() - len(path) - 1
        law[text] += mass * (text_law(target, left, text) if left else 1.0)


def policy_error(policy: TreePolicy, sampling: Sampling, draft_ids: list[int], size: int, depth: int) -> float:
    """Total variation between what a round emits with this policy and `hsd`, and the target's own text."""
    target = table_model(size, 1, sampling)
    trees = all_trees(policy, lambda: toy_proposer(draft_ids, size, 2), sampling, depth)
    emitted = round_law(trees, target, depth + 1)
    return hsd_verify.exact.enumerate.total_variation(emitted, text_law(target, depth + 1))
