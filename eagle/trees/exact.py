"""Every tree that a policy can draw, with its probability: what losslessness is computed from, and no model inside.

A policy's only random call is its `draw`. Here each call is answered by every token in turn, row by row. A branch has
the probability of its answers under the weights that were asked with, whatever laws the tree states; so a policy that
states other laws than it draws from is found out.

Letters: F rows of one random call, R expanded rows, V target vocabulary, Vd draft vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from eagle.chance import Draw
from eagle.trees.scaffold import EMPTY
from eagle.vocab import DraftVocabulary
from hsd_verify.exact.processes import Text


class TooManyTreesError(Exception):
    """The policy draws too much for a list."""


Grown = TypeVar("Grown")  # a tree, or whatever else follows from draws


def all_trees(grow: Callable[[Draw], Grown], most: int | None = None) -> Iterator[tuple[float, Grown]]:
    """Every tree that `grow` can return, with its probability; a tree may be listed several times.

    grow: grows one tree with the `draw` it is given. Raises TooManyTreesError behind the first `most` trees.
    """
    choices: tuple[int, ...] | None = ()
    number = 0
    while choices is not None:
        if number == most:
            raise TooManyTreesError(f"more than {most} trees")
        answers = _Answers(choices)
        tree = grow(answers)
        yield answers.probability, tree
        number, choices = number + 1, answers.following()


class _Answers:
    """A `Draw` that answers by a given list of choices, and by the first possible token after its end."""

    def __init__(self, choices: tuple[int, ...]):
        self._given = choices
        self._taken: list[tuple[int, int]] = []  # the choice made and how many there were
        self.probability = 1.0

    def __call__(self, weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
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


class TableProposer:
    """A `Proposer` after the text `prefix` whose logits are a function of the text they follow."""

    scaffold = EMPTY

    def __init__(self, vocabulary: DraftVocabulary, logits: Callable[[Text], Tensor], prefix: Text = ()):
        self.vocabulary, self._logits = vocabulary, logits
        self.root_token = prefix[-1] if prefix else 0
        self.root_logits = logits(prefix)  # (Vd,)
        self._texts = [prefix]  # R

    def expand(self, tokens: Tensor, parents: Tensor) -> Tensor:
        texts = [(*self._texts[row], token) for token, row in zip(tokens.tolist(), parents.tolist(), strict=True)]
        self._texts += texts
        return torch.stack([self._logits(text) for text in texts])  # (F, Vd)
