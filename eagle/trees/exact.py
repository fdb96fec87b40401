"""Every tree a policy can draw, with its probability: a draft small enough to list, and the list.

The draft looks its logits up in a table, and each random call of the policy is answered by every token in turn. A tree
has the probability of its answers under the weights that were asked with, whatever laws the tree states: so a policy
that states other laws than it draws from is found out. `hsd_verify.exact` sums such a list to the law of the text.

Letters: F rows of one random call, R expanded rows of a proposer, V target vocabulary, Vd draft vocabulary.
"""

import zlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from eagle.sampling import Sampling, seeded
from eagle.trees.protocols import Proposer, TreePolicy
from eagle.vocab import DraftVocabulary
from hsd_verify import DraftTree
from hsd_verify.exact.processes import Text


class TooManyTreesError(Exception):
    """The policy draws more trees than were asked for."""


def all_trees(
    policy: TreePolicy,
    open_proposer: Callable[[], Proposer],
    sampling: Sampling,
    max_depth: int,
    at_most: int | None = None,
) -> Iterator[tuple[float, DraftTree]]:
    """Every tree `policy` can grow, with its probability; one tree may be listed several times.

    `open_proposer` gives each of them a proposer of its own. Raises TooManyTreesError behind the first `at_most` trees
    where there are more.
    """
    num_listed = 0
    choices: tuple[int, ...] | None = ()
    while choices is not None:
        if num_listed == at_most:
            raise TooManyTreesError(f"more than {at_most} trees")
        answers = _Answers(choices)
        tree = policy.grow(open_proposer(), sampling, max_depth, draw=answers)
        yield answers.probability, tree
        num_listed, choices = num_listed + 1, answers.following()


class _Answers:
    """A `Draw` that answers row by row from a list of choices, and with the first possible token after its end."""

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


class TableProposer:
    """A `Proposer` after `prefix` whose logits (Vd,) are looked up by the text they follow."""

    def __init__(self, table: Callable[[Text], Tensor], vocabulary: DraftVocabulary, prefix: Text = ()):
        self.vocabulary = vocabulary
        self.root_token = prefix[-1] if prefix else 0
        self.root_logits = table(prefix)
        self._table, self._texts = table, [prefix]  # R

    def expand(self, tokens: Tensor, parents: Tensor) -> Tensor:
        texts = [(*self._texts[row], token) for token, row in zip(tokens.tolist(), parents.tolist(), strict=True)]
        self._texts += texts
        return torch.stack([self._table(text) for text in texts])  # (F, Vd)


def random_logits(text: Text, size: int, seed: int) -> Tensor:
    """Unrelated logits (size,) for every text, in float64: the same in every process."""
    generator = seeded(zlib.crc32(repr((seed, text)).encode()))
    return torch.randn(size, generator=generator, dtype=torch.float64)
