"""A draft small enough to list: a table of logits for a head, and the law of one round over all of a policy's trees.

Letters: V target vocabulary, Vd draft vocabulary.
"""

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

import hsd_verify
from eagle.chance import Chance, Draw
from eagle.sampling import Sampling
from eagle.trees import TreePolicy
from eagle.trees.exact import TableProposer, all_trees
from eagle.trees.protocols import grown
from eagle.trees.scaffold import EMPTY, Scaffold
from eagle.trees.scaffolded import with_scaffold
from eagle.vocab import DraftVocabulary
from hsd_verify import DraftTree
from hsd_verify.exact.enumerate import target_rows, text_law, total_variation
from hsd_verify.exact.processes import Model, Text


def logits_after(text: Text, size: int, seed: int) -> Tensor:
    """Unrelated logits (size,) for every text, in float64."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((seed, text)).encode()))
    return 1.5 * torch.randn(size, generator=generator, dtype=torch.float64)


def table_model(size: int, seed: int, sampling: Sampling) -> Model:
    """A target: the law after every text, by the same function that makes the draft's laws."""
    return lambda text: sampling.law(logits_after(text, size, seed))


def toy_proposer(draft_ids: list[int], vocab_size: int, seed: int, prefix: Text = ()) -> TableProposer:
    """Unrelated logits after every text; knows Vd of the V tokens."""
    vocabulary = DraftVocabulary.from_target_ids(torch.tensor(draft_ids), vocab_size)
    return TableProposer(vocabulary, lambda text: logits_after(text, len(draft_ids), seed), prefix)


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


def toy_trees(
    policy: TreePolicy,
    sampling: Sampling,
    draft_ids: list[int],
    size: int,
    depth: int,
    scaffold: Scaffold = EMPTY,
) -> Iterator[tuple[float, DraftTree]]:
    """Every tree the policy can draw from a fresh `toy_proposer`."""

    def grow(draw: Draw) -> DraftTree:
        proposer = with_scaffold(toy_proposer(draft_ids, size, 2), scaffold)
        return grown(policy, proposer, Chance(sampling, draw=draw), depth)

    return all_trees(grow)


def policy_error(
    policy: TreePolicy,
    sampling: Sampling,
    draft_ids: list[int],
    size: int,
    depth: int,
    scaffold: Scaffold = EMPTY,
    verifier: str = "hsd",
) -> float:
    """Total variation between what a round emits with this policy and verifier, and the target's own text."""
    target = table_model(size, 1, sampling)
    emitted = round_law(toy_trees(policy, sampling, draft_ids, size, depth, scaffold), target, depth + 1, verifier)
    return total_variation(emitted, text_law(target, depth + 1))
