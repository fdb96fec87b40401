"""The exact half of the self-check: every tree a policy can draw, and the law of the text a verifier makes of them.

The policy drafts from a table of laws on a few tokens, and each of its random calls is answered by every token in turn.
A branch has the probability of its answers under the weights that were asked with, whatever laws the tree states; so a
policy that states other laws than it draws from is found out.

Letters: V vocabulary, F rows of one random call, R expanded rows.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eagle.sampling import Sampling, one_hot, seeded
from eagle.trees import AutoTree, Draw, TreePolicy
from eagle.vocab import DraftVocabulary
from evaluation.arms import Drafting
from hsd_verify import DraftTree
from hsd_verify.exact import enumerate as exact

Text = tuple[int, ...]
Model = Callable[[Text], Tensor]
Outcome = tuple[bool | None, str]

LENGTH = 3
SIZES = ((4, 1), (4, 2), (2, 3))  # vocabulary and depth; those whose trees are too many are left out
MAX_TREES = 200  # after one text
TOLERANCE = 1e-5  # laws are float32, as in a real run; lossy verifiers are off by 1e-3 and more


def check_by_enumeration(drafting: Drafting, temperature: float) -> Outcome:
    """Whether the text has exactly the target's law (None: too many trees to say), and a sentence about it."""
    distances = {}
    for size in SIZES:
        try:
            distances[size] = _distance(drafting, temperature, *size)
        except _TooManyTreesError:
            continue
        except ValueError as refusal:
            return False, f"refused: {refusal}"
    if not distances:
        return None, f"this policy draws more than {MAX_TREES} trees even on two tokens: counting has to do"
    listed = ", ".join(f"{depth} deep on {vocab_size} tokens" for vocab_size, depth in distances)
    return max(distances.values()) < TOLERANCE, f"total variation {max(distances.values()):.1e}, trees {listed}"


def _distance(drafting: Drafting, temperature: float, vocab_size: int, depth: int) -> float:
    """Total variation between the law of the emitted text and the target's."""
    target = _table(vocab_size, temperature)
    process = functools.cache(functools.partial(all_trees, drafting.policy, Sampling(temperature), vocab_size, depth))
    law = exact.output_law(process, target, drafting.verifier, LENGTH)
    return exact.total_variation(law, exact.text_law(target, LENGTH))


class _TooManyTreesError(Exception):
    """The policy draws too much for a list."""


def all_trees(
    policy: TreePolicy, sampling: Sampling, vocab_size: int, max_depth: int, prefix: Text
) -> list[tuple[float, DraftTree]]:
    """Every tree the policy can draw after `prefix`, with its probability; one tree may be listed several times."""
    trees, answers = [], _Answers(())
    while True:
        tree = _answered_by(policy, sampling, answers).grow(_TableProposer(vocab_size, prefix), sampling, max_depth)
        trees.append((answers.probability, tree))
        following = answers.following()
        if following is None:
            return trees
        if len(trees) == MAX_TREES:
            raise _TooManyTreesError
        answers = _Answers(following)


def _answered_by(policy: TreePolicy, sampling: Sampling, answers: "_Answers") -> TreePolicy:
    """The same policy with its random call answered by a list; policies without one are deterministic."""
    return _with_draw(policy.choose(sampling) if isinstance(policy, AutoTree) else policy, answers)


def _with_draw(part: Any, draw: Draw) -> Any:
    """A dataclass with every field named `draw` replaced, in its parts too."""
    if not dataclasses.is_dataclass(part):
        return part
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    changed = {name: draw if name == "draw" else _with_draw(value, draw) for name, value in fields.items()}
    return dataclasses.replace(part, **changed)  # type: ignore[type-var]


class _Answers:
    """Answers random calls by a given list of choices, and by the first possible token after its end."""

    def __init__(self, choices: tuple[int, ...]):
        self._given = choices
        self._taken: list[tuple[int, int]] = []  # the choice made and how many there were
        self.probability = 1.0

    def __call__(self, weights: Tensor, _generator: torch.Generator | None = None) -> Tensor:
        return torch.stack([self._answer(row) for row in weights])  # (F,)

    def _answer(self, weights: Tensor) -> Tensor:
        possible = weights.nonzero()[:, 0]
        choice = self._given[len(self._taken)] if len(self._taken) < len(self._given) else 0
        self._taken.append((choice, len(possible)))
        token = possible[choice]
        self.probability *= float(weights[token] / weights.sum())
        return token

    def following(self) -> tuple[int, ...] | None:
        """The next list of choices in order, None after the last."""
        taken = list(self._taken)
        while taken:
            choice, num_possible = taken.pop()
            if choice + 1 < num_possible:
                return (*(c for c, _ in taken), choice + 1)
        return None


def _table(vocab_size: int, temperature: float) -> Model:
    """The target: a fixed random law for every text, at temperature 0 a point mass."""

    def law(text: Text) -> Tensor:
        logits = _table_logits(vocab_size, 1, text)
        return one_hot(logits.argmax(), len(logits)) if temperature == 0 else logits.softmax(-1)

    return law


def _table_logits(vocab_size: int, seed: int, text: Text) -> Tensor:
    generator = seeded(zlib.crc32(repr((seed, text)).encode()))
    return torch.randn(vocab_size, generator=generator)  # (V,)


class _TableProposer:
    """A `Proposer` whose logits are looked up by the text they follow."""

    def __init__(self, vocab_size: int, prefix: Text):
        self.vocabulary = DraftVocabulary.first(vocab_size, vocab_size)
        self.root_token = prefix[-1] if prefix else 0
        self.root_logits = self._logits(prefix)
        self._texts = [prefix]  # R

    def expand(self, tokens: Tensor, parents: Tensor) -> Tensor:
        texts = [(*self._texts[p], t) for t, p in zip(tokens.tolist(), parents.tolist(), strict=True)]
        self._texts += texts
        return torch.stack([self._logits(text) for text in texts])

    def _logits(self, text: Text) -> Tensor:
        return _table_logits(self.vocabulary.t2d.numel(), 2, text)
