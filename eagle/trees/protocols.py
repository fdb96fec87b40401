"""What a tree policy is, and what it asks of a drafter.

Letters: F nodes of a frontier, V target vocabulary, Vd draft vocabulary.
"""

from collections.abc import Generator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from eagle.chance import Chance
from eagle.coroutines import Requests, answered
from eagle.options import Limits
from eagle.trees.scaffold import Scaffold
from eagle.vocab import DraftVocabulary
from hsd_verify import DraftTree

MOST = 4096  # of nodes, levels, children: a tree that large is a typing error


class Proposer(Protocol):
    """Draft laws on demand, for one round.

    Rows are numbered in the order they were expanded; row 0 is the root, whose logits are there from the start.
    """

    vocabulary: DraftVocabulary
    root_token: int
    root_logits: Tensor  # (Vd,) float32

    @property
    def scaffold(self) -> Scaffold:
        """What the text alone suggests below the root, all of it tokens of `vocabulary`; often nothing."""
        ...

    def expand(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Read nodes with target ids `tokens` (F,) below the rows `parents` (F,) -> logits (F, Vd) after each."""
        ...


@runtime_checkable
class AskingProposer(Proposer, Protocol):
    """One that may be answered together with others."""

    def expanding(self, tokens: Tensor, parents: Tensor) -> Requests[Tensor]:
        """`expand` as work that asks for its passes."""
        ...


class Expansion(NamedTuple):
    """What a policy asks for while it grows a tree: the arguments of `Proposer.expand`."""

    tokens: Tensor  # (F,)
    parents: Tensor  # (F,)


Growing = Generator[Expansion, Tensor, DraftTree]
"""Yields what to read, is sent the logits (F, Vd), returns the tree: trees of many rows can grow side by side."""


class TreePolicy(Protocol):
    """Decides which nodes exist and by which law each was proposed."""

    @property
    def verifier(self) -> str:
        """The verifier that its trees are made for; others may take them too."""
        ...

    def grow(self, proposer: Proposer, chance: Chance, max_depth: int) -> Growing:
        """A tree no deeper than `max_depth` (0: the root alone), its sampled tokens drawn as `chance` says.

        A generator that yields what is to be expanded and does not call `expand` itself: see `grown`.
        """
        ...


def expanding(proposer: Proposer, asked: Expansion) -> Requests[Tensor]:
    """What a proposer says to an expansion, asking for passes where it can."""
    if isinstance(proposer, AskingProposer):
        return (yield from proposer.expanding(*asked))
    return proposer.expand(*asked)


def grown(policy: TreePolicy, proposer: Proposer, chance: Chance, max_depth: int) -> DraftTree:
    """The tree of a policy, with the proposer's `expand` for all that it asks."""
    return answered(policy.grow(proposer, chance, max_depth), lambda asked: proposer.expand(*asked))


def bare_root(proposer: Proposer) -> DraftTree:
    """The tree of one node: nothing is drafted."""
    return lone_root(proposer.root_token, proposer.root_logits.device)


def lone_root(token: int, device: torch.device) -> DraftTree:
    """The same, where nobody proposes."""
    return DraftTree(torch.tensor([-1]), torch.tensor([token]), device=device)


def check_counts(**limits: tuple[Any, int]) -> None:
    """Raises ValueError for the first `name=(value, least)` that is no whole number from the least to `MOST`."""
    for name, (value, least) in limits.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}, it must be a whole number")
        if not least <= value <= MOST:
            bound = f"at least {least}" if value < least else f"at most {MOST}: a pass over more nodes never pays"
            raise ValueError(f"{name} is {value}, it must be {bound}")


def check_number(name: str, value: Any, **limits: Any) -> None:
    """Raises ValueError unless the value is a finite number within `eagle.options.Limits`."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, it must be a finite number")
    Limits(**limits).check(value, f"{name} is {value!r}")
