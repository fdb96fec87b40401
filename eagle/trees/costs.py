"""What a round costs: milliseconds of the target's pass against tree nodes, and of a draft step.

Letters: N tree nodes including the root.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from eagle.options import freeze_lists
from eagle.trees.protocols import check_number


@dataclass(frozen=True)
class CostModel:
    """What one machine takes for one target and head; measured by `eagle.planner`, there are no numbers for all."""

    num_nodes: tuple[int, ...]  # ascending
    target_ms: tuple[float, ...]  # one pass over so many nodes
    draft_step_ms: float = 0.0  # reading one level of the tree with the head; 0: not counted

    def __post_init__(self) -> None:
        freeze_lists(self)
        ascending = all(a < b for a, b in zip(self.num_nodes, self.num_nodes[1:], strict=False))
        if len(self.num_nodes) != len(self.target_ms) or len(self.num_nodes) < 2 or not ascending:
            raise ValueError(
                f"num_nodes {self.num_nodes} and target_ms {self.target_ms} must be two lists of one length, "
                "at least 2, the first ascending: measure again with eagle.planner.measure_costs"
            )
        for name, limits in (("num_nodes", {"at_least": 1}), ("target_ms", {"above": 0})):
            for number in getattr(self, name):
                check_number(name, number, **limits)
        check_number("draft_step_ms", self.draft_step_ms, at_least=0)

    def target_at(self, num_nodes: Tensor) -> Tensor:
        """Milliseconds of passes over `num_nodes` nodes: linear in between, and on with the last slope beyond."""
        nodes = torch.tensor(self.num_nodes, dtype=torch.float64, device=num_nodes.device)
        times = torch.tensor(self.target_ms, dtype=torch.float64, device=num_nodes.device)
        right = torch.searchsorted(nodes, num_nodes.double()).clamp(1, len(nodes) - 1)
        slope = (times[right] - times[right - 1]) / (nodes[right] - nodes[right - 1])
        return times[right - 1] + slope * (num_nodes - nodes[right - 1])
