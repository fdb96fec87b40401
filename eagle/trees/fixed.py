"""Sampled trees of a fixed shape: a chain, i.i.d. paths, siblings without replacement.

Letters: F nodes of a frontier.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eagle.chance import Chance
from eagle.judging import INDEPENDENT
from eagle.options import freeze_lists
from eagle.trees.growth import Growth
from eagle.trees.protocols import Growing, Proposer, check_counts
from eagle.trees.sapling import Children, Families, Frontier, Number


@dataclass(frozen=True)
class FixedBranching:
    """The rule: every node of level i gets `branching[i]` sampled children, and every one of them is read.

    A scaffold stands beside them as a chain of its own, which is not read: its values are 0.
    """

    branching: tuple[int, ...]
    replacement: bool = False

    def families(self, frontier: Frontier, level: int, num_nodes: Number) -> Families:
        num_sampled = torch.full_like(frontier.nodes, self.branching[level])
        values = frontier.values[:, None].expand(-1, self.branching[level])  # (F, K)
        none = num_sampled.new_empty(len(num_sampled), 0)
        placed, is_placed = (none, none.bool()) if frontier.step is None else frontier.step_slot
        return Families(placed, torch.zeros_like(placed, dtype=values.dtype), is_placed, num_sampled, values)

    def worth_reading(self, children: Children, num_nodes: Number) -> tuple[Tensor, Tensor]:
        most = len(children.tokens) if children.num_drawn is None else children.num_drawn
        return torch.arange(most, device=children.values.device), children.values[:most] > 0


@dataclass(frozen=True)
class SampledChain:
    """One chain, every token drawn from the draft law at the sampling temperature: verified by `hsd` it is block
    verification (arXiv 2403.10444), the best any verifier can do with a chain."""

    depth: int = 4

    verifier: ClassVar[str] = INDEPENDENT

    def __post_init__(self) -> None:
        check_counts(depth=(self.depth, 0))

    def grow(self, proposer: Proposer, chance: Chance, max_depth: int) -> Growing:
        return _grow((1,) * self.depth, False, proposer, chance, max_depth)


@dataclass(frozen=True)
class IidPaths:
    """`num_paths` sampled chains below one root, independent and never merged."""

    num_paths: int = 3
    depth: int = 4

    verifier: ClassVar[str] = INDEPENDENT

    def __post_init__(self) -> None:
        check_counts(num_paths=(self.num_paths, 1), depth=(self.depth, 0))
        check_counts(**{"num_paths * depth": (self.num_paths * self.depth, 0)})

    def grow(self, proposer: Proposer, chance: Chance, max_depth: int) -> Growing:
        branching = (self.num_paths, *(1,) * self.depth)[: self.depth]
        return _grow(branching, True, proposer, chance, max_depth)


@dataclass(frozen=True)
class WithoutReplacement:
    """Distinct sampled siblings: every node of level i has `branching[i]` of them, drawn one after the other.

    A sequential draw without replacement is the Gumbel top-k trick with its scores left out (arXiv 1903.06059).
    """

    branching: tuple[int, ...] = (3, 2, 1, 1)

    verifier: ClassVar[str] = INDEPENDENT

    def __post_init__(self) -> None:
        freeze_lists(self)
        if not isinstance(self.branching, tuple):  # one number, from `without_replacement:branching=3`
            object.__setattr__(self, "branching", (self.branching,))
        for level, width in enumerate(self.branching):
            check_counts(**{f"branching[{level}]": (width, 1)})
            check_counts(**{f"nodes of level {level + 1}": (math.prod(self.branching[: level + 1]), 1)})

    def grow(self, proposer: Proposer, chance: Chance, max_depth: int) -> Growing:
        return _grow(self.branching, False, proposer, chance, max_depth)


def _grow(
    branching: tuple[int, ...],
    replacement: bool,
    proposer: Proposer,
    chance: Chance,
    max_depth: int,
) -> Growing:
    rule = FixedBranching(branching, replacement)
    return Growth(rule, proposer, chance).tree(min(len(branching), max_depth))
