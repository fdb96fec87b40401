"""What a round costs: milliseconds of the target's pass against tree nodes, of a draft step, and of drafting at all.

Letters: N tree nodes including the root.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eagle.options import freeze_lists
from eagle.trees.protocols import check_number
from hsd_verify.transfer import send

PLAUSIBLE = 0.9  # measurements of a quiet machine repeat to a few per cent


@dataclass(frozen=True)
class CostModel:
    """What one machine takes for one target and head; measured by `eagle.planner`, there are no numbers for all."""

    num_nodes: tuple[int, ...]  # ascending
    target_ms: tuple[float, ...]  # one pass over so many nodes
    draft_step_ms: float = 0.0  # reading one level of the tree with the head; 0: not counted
    round_ms: float = 0.0  # the head reads what was accepted, the tree is built: whatever its depth; 0: not counted
    context: int = 0  # tokens behind which the passes were measured
    long_context: int = 0  # more of them; 0: not measured
    long_target_ms: tuple[float, ...] = ()  # the same passes there

    def __post_init__(self) -> None:
        freeze_lists(self)
        ascending = all(a < b for a, b in zip(self.num_nodes, self.num_nodes[1:], strict=False))
        lengths = {len(self.num_nodes), len(self.target_ms), len(self.long_target_ms) or len(self.target_ms)}
        if len(lengths) > 1 or len(self.num_nodes) < 2 or not ascending:
            raise ValueError(
                f"num_nodes {self.num_nodes} and target_ms {self.target_ms} must be two lists of one length, "
                f"at least 2, the first ascending, and long_target_ms {self.long_target_ms} empty or as long: "
                "measure again with eagle.planner.measure_costs"
            )
        for name, limits in (
            ("num_nodes", {"at_least": 1}),
            ("target_ms", {"above": 0}),
            ("long_target_ms", {"above": 0}),
        ):
            for number in getattr(self, name):
                check_number(name, number, **limits)
        for name in ("draft_step_ms", "round_ms"):
            check_number(name, getattr(self, name), at_least=0)
        if self.long_target_ms and not 0 <= self.context < self.long_context:
            raise ValueError(f"context is {self.context}, it must lie below long_context, which is {self.long_context}")

    @property
    def is_plausible(self) -> bool:
        """Not where passes behind a long text took less than behind a short one: something else was running."""
        pairs = zip(self.target_ms, self.long_target_ms, strict=False)
        return all(long >= PLAUSIBLE * short for short, long in pairs)

    def behind(self, length: int) -> "CostModel":
        """The costs behind a text of `length` tokens: passes grow linearly with it, as attention does.

        What the head takes stays: its one layer grows too, by a small part of what the target does.
        """
        if not self.long_target_ms or length <= self.context:
            return self
        share = (length - self.context) / (self.long_context - self.context)
        growth = (max(long - short, 0.0) for short, long in zip(self.target_ms, self.long_target_ms, strict=True))
        there = tuple(short + share * more for short, more in zip(self.target_ms, growth, strict=True))
        return replace(self, target_ms=there, context=length, long_context=0, long_target_ms=())

    def towards(self, other: "CostModel", share: float) -> "CostModel":
        """Costs between these and others of the same sizes, linear: `share` 0 is these, 1 the others."""

        def between(ours: tuple[float, ...], theirs: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(a + share * (b - a) for a, b in zip(ours, theirs, strict=True))

        both_long = bool(self.long_target_ms and other.long_target_ms)
        (step_ms, round_ms) = between((self.draft_step_ms, self.round_ms), (other.draft_step_ms, other.round_ms))
        return CostModel(
            self.num_nodes,
            between(self.target_ms, other.target_ms),
            step_ms,
            round_ms,
            self.context,
            min(self.long_context, other.long_context) if both_long else 0,
            between(self.long_target_ms, other.long_target_ms) if both_long else (),
        )

    @property
    def plain_ms(self) -> float:
        """A token of plain decoding."""
        return float(self.target_at(torch.tensor(1)))

    def drafted_ms(self, num_nodes: int, num_steps: float) -> float:
        """A round with a tree of `num_nodes`, grown in so many draft steps."""
        return float(self.target_at(torch.tensor(num_nodes))) + num_steps * self.draft_step_ms + self.round_ms

    def target_at(self, num_nodes: Tensor) -> Tensor:
        """Milliseconds of passes over `num_nodes` nodes: linear in between, and on with the last slope beyond."""
        nodes = send(torch.tensor(self.num_nodes, dtype=torch.float64), num_nodes.device)
        times = send(torch.tensor(self.target_ms, dtype=torch.float64), num_nodes.device)
        right = torch.searchsorted(nodes, num_nodes.double()).clamp(1, len(nodes) - 1)
        slope = (times[right] - times[right - 1]) / (nodes[right] - nodes[right - 1])
        return times[right - 1] + slope * (num_nodes - nodes[right - 1])
