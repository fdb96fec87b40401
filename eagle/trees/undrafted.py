"""No tree: the choice of the default where plain decoding is faster than any of its trees."""

from dataclasses import dataclass
from typing import ClassVar

from eagle.chance import Chance
from eagle.judging import COUPLED
from eagle.trees.protocols import Growing, Proposer, bare_root


@dataclass(frozen=True)
class Undrafted:
    """Plain decoding: every round is a tree of one node."""

    num_nodes: ClassVar[int] = 1
    verifier: ClassVar[str] = COUPLED

    def grow(self, proposer: Proposer, chance: Chance, max_depth: int) -> Growing:
        return bare_root(proposer)
        yield  # a generator, like all: nothing is asked for
