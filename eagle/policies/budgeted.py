"""A tree as large as it pays: predicted tokens per millisecond decide, not tau.

    rate so far    G / C     G: 1 (the bonus token) + the values of all slots taken     C: target pass + draft steps
    a level takes  the n best slots for which (G + gain(n)) / (C + cost(n)) is largest; none of them: growth ends
    another level  is read where the gain it promises per millisecond of a draft step exceeds the rate so far

Letters: F nodes of a frontier, C children of a level.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from eagle.policies.costs import CostModel
from eagle.policies.growth import Growth
from eagle.policies.protocols import Proposer
from eagle.policies.sapling import Families, Frontier
from eagle.policies.valued import ValuedTree
from eagle.sampling import Sampling
from hsd_verify import DraftTree


@dataclass(frozen=True)
class BudgetedTree:
    """A valued tree whose size and depth follow from predicted gain and measured cost, round by round."""

    slots: ValuedTree = field(
        default_factory=lambda: ValuedTree(64, threshold=0.005, depth=12)
    )  # its threshold and caps hold
    cost: CostModel = field(default_factory=CostModel)
    promise: float = 0.6  # predicted gain of a level per value of the nodes it grows from

    def __post_init__(self) -> None:
        for name, kind in (("slots", ValuedTree), ("cost", CostModel)):
            if isinstance(getattr(self, name), dict):  # from YAML
                object.__setattr__(self, name, kind(**getattr(self, name)))
        if self.slots.threshold is None:
            raise ValueError("slots has no threshold: a budgeted tree needs one, such as 0.005, to end its search at")
        if not 0 < self.promise <= 1:
            raise ValueError(f"promise is {self.promise}, it must lie in (0, 1]: a share of the nodes' value")

    def grow(
        self, proposer: Proposer, sampling: Sampling, max_depth: int, generator: torch.Generator | None = None
    ) -> DraftTree:
        slots, sampling = self.slots.settled(sampling)
        rule = _Ledger(slots, self.cost, self.promise)
        return Growth(rule, proposer, sampling, self.slots.draw, generator).tree(min(slots.depth, max_depth))


@dataclass
class _Ledger:
    """The rule of one round: what was promised and what it costs. Sees values, never tokens."""

    slots: ValuedTree
    cost: CostModel
    promise: float
    replacement: bool = False
    gain: float = 1.0  # tokens
    draft_ms: float = 0.0
    num_nodes: int = 1

    def families(self, frontier: Frontier, level: int, num_nodes: int) -> Families:
        slots = self.slots.offer(frontier, level).slots(frontier.values.new_tensor(self.slots.threshold))
        values = slots.values.flatten().sort(descending=True).values  # (F * (M + K),)
        values = values[values > 0][: max(self.slots.num_nodes - num_nodes, 0)]
        gains = self.gain + torch.cat([values.new_zeros(1), values.cumsum(0)]).double()
        sizes = num_nodes + torch.arange(len(gains), device=gains.device)
        best = int((gains / (self.cost.target_at(sizes) + self.draft_ms)).argmax())
        self.gain, self.num_nodes = float(gains[best]), num_nodes + best
        return slots.best(best)

    def worth_reading(self, values: Tensor, num_nodes: int) -> Tensor:
        read = self.slots.worth_reading(values, num_nodes)
        promised = self.promise * float(values[read].sum())
        self.draft_ms += self.cost.draft_step_ms
        return read if promised >= self._rate() * self.cost.draft_step_ms else read[:0]

    def _rate(self) -> float:
        """Tokens per millisecond if the tree stays as it is."""
        target_ms = float(self.cost.target_at(torch.tensor(self.num_nodes)))
        return self.gain / (target_ms + self.draft_ms)
