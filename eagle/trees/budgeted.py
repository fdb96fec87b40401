"""A tree as large as it pays: predicted tokens per millisecond decide, not tau.

Many rounds follow each other, so what counts is all tokens over all milliseconds, and a round is best grown by what it
adds to tokens - rate * milliseconds, with one `rate` for all rounds: the tokens a millisecond that decoding reaches in
the long run (a renewal reward; Dinkelbach 1967). A sure round so grows beyond the point where its own quotient is
largest, and an unsure one stops before it.

    a level takes  the n best slots for which gain(n) - rate * cost(n) is largest; none of them: growth ends
    another level  is read where the gain it promises exceeds rate * the milliseconds of a draft step

Letters: F nodes of a frontier, C children of a level.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import NoneType
from typing import ClassVar

import torch
from torch import Tensor

from eagle.chance import Chance
from eagle.judging import INDEPENDENT
from eagle.trees.costs import CostModel
from eagle.trees.growth import Growth
from eagle.trees.protocols import Growing, Proposer, check_number
from eagle.trees.sapling import Children, Families, Frontier, Number
from eagle.trees.valued import ValuedTree


@dataclass(frozen=True)
class BudgetedTree:
    """A valued tree whose size and depth follow from predicted gain and measured cost, round by round."""

    valued: ValuedTree = field(
        default_factory=lambda: ValuedTree(64, threshold=0.005, depth=10, max_sampled=6)
    )  # its threshold and caps hold
    cost: CostModel | None = None  # of this machine; None: `eagle.planner` fills it in
    rate: float | None = None  # tokens a millisecond, in the long run; None: those of plain decoding
    promise: float = 0.6  # predicted gain of a level and those below it per value of the nodes it grows from

    verifier: ClassVar[str] = INDEPENDENT

    def __post_init__(self) -> None:
        for name, kind in (("valued", ValuedTree), ("cost", CostModel)):
            if isinstance(getattr(self, name), dict):  # from YAML
                object.__setattr__(self, name, kind(**getattr(self, name)))
            if not isinstance(getattr(self, name), kind | NoneType):
                raise ValueError(f"{name} is {getattr(self, name)!r}, give fields of it, such as {name}.num_nodes=16")
        if self.valued is None or self.valued.threshold is None:
            raise ValueError("valued has no threshold: a budgeted tree needs one, such as 0.005, to end its search at")
        for name, value in (("rate", self.rate), ("promise", self.promise)):
            if value is not None:
                check_number(name, value, above=0)

    def grow(self, proposer: Proposer, chance: Chance, max_depth: int) -> Growing:
        if self.cost is None:
            raise ValueError("a budgeted tree needs cost, the milliseconds of this machine: see eagle.planner.plan")
        valued, drawing, predicting = self.valued.settled(chance.sampling)
        rate = self.rate or 1 / float(self.cost.target_at(torch.tensor(1)))
        rule = _Ledger(valued, self.cost, rate, self.promise)
        growth = Growth(rule, proposer, replace(chance, sampling=drawing), predicting)
        return growth.tree(min(valued.depth, max_depth))


@dataclass(frozen=True)
class _Ledger:
    """The rule of one round. Sees values, never tokens."""

    valued: ValuedTree
    cost: CostModel
    rate: float
    promise: float
    replacement: bool = False

    def families(self, frontier: Frontier, level: int, num_nodes: Number) -> Families:
        assert self.valued.threshold is not None, "refused at construction"
        slots = self.valued.offer(frontier, level).slots(self.valued.threshold)
        most = self.valued.num_nodes - 1
        values = slots.values.flatten().sort(descending=True).values[:most]  # (n,) the best of F * (M + K)
        gains = torch.cat([values.new_zeros(1), values.cumsum(0)])  # (n + 1,)
        counts = torch.arange(len(gains), device=values.device)
        passes_ms = _passes_ms(self.cost, self.valued.num_nodes, values.device)[
            (counts + num_nodes - 1).clamp(max=most)
        ]
        possible = counts <= most + 1 - num_nodes  # (n + 1,)
        possible[1:] &= values > 0
        worth = (gains - self.rate * passes_ms).masked_fill_(~possible, -torch.inf)
        return slots.best(worth.argmax())

    def worth_reading(self, children: Children, num_nodes: Number) -> tuple[Tensor, Tensor]:
        read, meant = self.valued.worth_reading(children, num_nodes)
        promised = self.promise * (children.values[read] * meant).sum()
        return read, meant & (promised >= self.rate * self.cost.draft_step_ms)


@lru_cache(maxsize=16)
def _passes_ms(cost: CostModel, max_nodes: int, device: torch.device) -> Tensor:
    """Milliseconds of target passes over 1 .. max_nodes nodes."""
    return cost.target_at(torch.arange(1, max_nodes + 1, device=device))
