"""The exact half of the self-check: every tree a policy can draw, and the law of the text a verifier makes of them.

The policy drafts from a table of laws on a few tokens; `eagle.trees.exact` lists what it can draw. A lookup is the real
one, behind a prompt that holds every token twice; beside it the draft does not know the last token of the vocabulary.

Letters: V vocabulary.
"""

import functools
import zlib

import torch
from torch import Tensor

from eagle.chance import Chance, Draw
from eagle.drafters.beside import LookupBeside
from eagle.drafters.lookup import LookupDrafter
from eagle.sampling import Sampling, one_hot, seeded
from eagle.trees import TreePolicy
from eagle.trees.exact import TableProposer, TooManyTreesError, all_trees
from eagle.trees.protocols import grown
from eagle.trees.scaffold import EMPTY, Scaffold
from eagle.trees.scaffolded import with_scaffold
from eagle.vocab import DraftVocabulary
from evaluation.arms import TreeAndVerifier
from hsd_verify import DraftTree
from hsd_verify.exact import enumerate as exact
from hsd_verify.exact.processes import Model, Text

Outcome = tuple[bool | None, str]

LENGTH = 3
SIZES = ((4, 1), (4, 2), (2, 3))  # vocabulary and depth; those whose trees are too many are left out
MAX_TREES = 200  # after one text
TOLERANCE = 1e-5  # laws are float32, as in a real run; lossy verifiers are off by 1e-3 and more


def check_by_enumeration(drafting: TreeAndVerifier, temperature: float) -> Outcome:
    """Whether the text has exactly the target's law (None: too many trees to say), and a sentence about it."""
    distances = {}
    for size in SIZES:
        try:
            distances[size] = _distance(drafting, temperature, *size)
        except TooManyTreesError:
            continue
        except ValueError as refusal:
            return False, f"refused: {refusal}"
    if not distances:
        return None, f"this policy draws more than {MAX_TREES} trees even on two tokens: counting has to do"
    listed = ", ".join(f"{depth} deep on {vocab_size} tokens" for vocab_size, depth in distances)
    return max(distances.values()) < TOLERANCE, f"total variation {max(distances.values()):.1e}, trees {listed}"


def _distance(drafting: TreeAndVerifier, temperature: float, vocab_size: int, depth: int) -> float:
    """Total variation between the law of the emitted text and the target's."""
    target = _table(vocab_size, temperature)
    grow = functools.partial(trees_after, drafting.policy, Sampling(temperature), vocab_size, depth)
    process = functools.cache(functools.partial(grow, lookup=drafting.lookup))
    law = exact.output_law(process, target, drafting.verifier, LENGTH)
    return exact.total_variation(law, exact.text_law(target, LENGTH))


def trees_after(
    policy: TreePolicy, sampling: Sampling, vocab_size: int, max_depth: int, prefix: Text, lookup: bool = False
) -> list[tuple[float, DraftTree]]:
    """Every tree the policy can draw after `prefix`, with its probability; raises TooManyTreesError."""
    num_drafted = vocab_size - 1 if lookup and vocab_size > 2 else vocab_size
    vocabulary = DraftVocabulary.first(num_drafted, vocab_size)
    logits = functools.partial(_table_logits, num_drafted, 2)
    scaffold = scaffold_after(vocab_size, prefix) if lookup else EMPTY

    def grow(draw: Draw) -> DraftTree:
        proposer = with_scaffold(TableProposer(vocabulary, logits, prefix), scaffold)
        return grown(policy, proposer, Chance(sampling, draw=draw), max_depth)

    return list(all_trees(grow, MAX_TREES))


def scaffold_after(vocab_size: int, prefix: Text) -> Scaffold:
    """What a lookup suggests behind a prompt and the text `prefix`: never nothing."""
    beside = LookupBeside(LookupDrafter(least=1))
    beside.observe([*range(vocab_size), *range(vocab_size), *prefix])
    return beside.scaffold()


def _table(vocab_size: int, temperature: float) -> Model:
    """The target: a fixed random law for every text, at temperature 0 a point mass."""

    def law(text: Text) -> Tensor:
        logits = _table_logits(vocab_size, 1, text)
        return one_hot(logits.argmax(), len(logits)) if temperature == 0 else logits.softmax(-1)

    return law


def _table_logits(vocab_size: int, seed: int, text: Text) -> Tensor:
    generator = seeded(zlib.crc32(repr((seed, text)).encode()))
    return torch.randn(vocab_size, generator=generator)  # (V,)
