"""Trees whose slots are chosen by value: the predicted probability that a slot is accepted.

    placed slot of token x below v      value(v) * q(x)
    k-th sampled slot below v           value(v) * (1 - q(S)) * alpha_k     S: the placed tokens of v
    placed slot of the scaffold         value(v) * what draft and text say together (`eagle.trees.scaffold`)

A slot exists when its value reaches a threshold, fixed or such that a budget of nodes lasts. The value of a sampled
slot is the same whatever token it draws, and a level is decided as a whole before its first draw, so that existence
never depends on a token yet to be drawn.

Letters: F nodes of a frontier, M placed slots and K sampled slots of a node at most, C children of a level,
G thresholds of a grid.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from eagle.chance import Chance
from eagle.judging import INDEPENDENT
from eagle.options import freeze_lists
from eagle.sampling import Sampling
from eagle.trees.best import largest
from eagle.trees.growth import Growth
from eagle.trees.protocols import Growing, Proposer, check_counts, check_number
from eagle.trees.sapling import UNREAD, Children, Families, Frontier, Number
from eagle.trees.scaffold import believed
from hsd_verify.transfer import send

Table = tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class Acceptance:
    """What drafts are worth, by depth and confidence: fitted on held-out rounds. The last level serves deeper ones.

    A confident law is accepted more often at first try and leaves less for its siblings. How confident is read off
    its largest probability: node and law exist before the family below it is decided, so values may follow them.
    """

    sampled: Table = (((0.3, 0.2, 0.15, 0.1, 0.08, 0.06),),)  # alpha_k, by level, class of confidence and rank
    placed: tuple[float, ...] = (0.7,)  # target probability / draft probability of a placed token, by level
    confidence: tuple[float, ...] = ()  # largest draft probabilities at which a class ends and the next begins

    def __post_init__(self) -> None:
        freeze_lists(self)
        for name, numbers in (
            ("sampled", [a for level in self.sampled for row in level for a in row]),
            ("placed", self.placed),
        ):
            if not numbers:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least one number")
            for number in numbers:
                check_number(name, number, above=0)
        if any(len(level) != len(self.confidence) + 1 for level in self.sampled):
            raise ValueError(
                f"confidence {self.confidence} makes {len(self.confidence) + 1} classes, sampled has "
                f"{[len(level) for level in self.sampled]} by level: give every level a row for each class"
            )

    def sampled_at(self, level: int, laws: Tensor, num_slots: int) -> Tensor:
        """alpha of the first `num_slots` sampled slots of nodes with `laws` (F, Vd): (F, K), never rising in a row.

        Slots behind the fitted ones are worth as much as the last.
        """
        alphas = _alphas(self, min(level, len(self.sampled) - 1), num_slots, laws.dtype, laws.device)  # (classes, K)
        if not self.confidence:
            return alphas.expand(len(laws), -1)
        bounds = _numbers(self.confidence, laws.dtype, laws.device)
        return alphas[(laws.amax(-1, keepdim=True) > bounds).sum(-1)]

    def placed_at(self, level: int) -> float:
        return self.placed[min(level, len(self.placed) - 1)]


@lru_cache(maxsize=64)
def _alphas(acceptance: Acceptance, level: int, num_slots: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    rows = [[min(row[: k + 1]) for k in range(num_slots)] for row in acceptance.sampled[level]]
    return send(torch.tensor(rows, dtype=dtype), device)


@lru_cache(maxsize=16)
def _numbers(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return send(torch.tensor(numbers, dtype=dtype), device)


@dataclass(frozen=True)
class ValuedTree:
    """Placed children and sampled ones at every node, as many of each as their values ask for.

    With `max_sampled` 1 it is the hybrid of the theory: a deterministic set S and one sampled child from the rest.
    With `max_placed` 0 only sampled siblings are left, the widths of all levels chosen by value (a stochastic beam).
    Above temperature 0 a placed child takes tokens the sampled one could have drawn, so its gain is smaller than its
    value: `covered` is the part of it that the sampled slot would have won anyway.

    Without a `threshold` every level takes one of its own, such that the budget lasts: a slot worth v leads to about
    `descendants` * v / threshold slots worth the threshold below it, and those of deeper levels must find room too.
    """

    num_nodes: int = 16  # most nodes with the root
    threshold: float | None = None  # least value of a slot; None: what the budget allows, level by level
    depth: int = 8
    max_placed: int = 8  # M, placed children of a node
    max_sampled: int = 1  # K, sampled children of a node
    max_read: int = 16  # nodes of a level the drafter reads
    covered: float = 0.6
    descendants: float = 0.5
    draft_temperature: float = 1.0  # of the law that is drawn from, times the sampling temperature
    value_temperature: float = 1.0  # of the law that values are read off; hotter sampling has its own
    acceptance: Acceptance = field(default_factory=Acceptance)

    verifier: ClassVar[str] = INDEPENDENT

    def __post_init__(self) -> None:
        if isinstance(self.acceptance, dict):  # from YAML
            object.__setattr__(self, "acceptance", Acceptance(**self.acceptance))
        if not isinstance(self.acceptance, Acceptance):
            raise ValueError(f"acceptance is {self.acceptance!r}, give fields of it, such as acceptance.placed=0.7")
        check_counts(num_nodes=(self.num_nodes, 1), depth=(self.depth, 0), max_read=(self.max_read, 1))
        check_counts(max_placed=(self.max_placed, 0), max_sampled=(self.max_sampled, 0))
        check_number("descendants", self.descendants, at_least=0)
        if self.threshold is not None:
            check_number("threshold", self.threshold, above=0, at_most=1)  # a value is a probability
        for name in ("draft_temperature", "value_temperature"):
            check_number(name, getattr(self, name), above=0)
        check_number("covered", self.covered, at_least=0, below=1)

    def grow(self, proposer: Proposer, chance: Chance, max_depth: int) -> Growing:
        rule, drawing, predicting = self.settled(chance.sampling)
        depth = min(self.depth, max_depth) if self.num_nodes > 1 else 0
        rule = replace(rule, depth=depth)
        return Growth(rule, proposer, replace(chance, sampling=drawing), predicting).tree(depth)

    def settled(self, sampling: Sampling) -> tuple["ValuedTree", Sampling, Sampling]:
        """This policy for a sampling, the law it draws from and the law its values are read off.

        A draft that is unsure where the target is sure stays unsure at low temperature: its law at temperature 1
        predicts the target's at 0.6 better than its own at 0.6 does (docs/trees.md). Where the target is greedy
        nothing is sampled.
        """
        if sampling.greedy:
            greedy = Sampling(self.value_temperature)
            return replace(self, max_sampled=0, covered=0.0), greedy, greedy
        predicting = replace(sampling, temperature=max(self.value_temperature, sampling.temperature))
        return self, sampling.scaled(self.draft_temperature), predicting

    @property
    def replacement(self) -> bool:
        return False

    def families(self, frontier: Frontier, level: int, num_nodes: Number) -> Families:
        offer, room = self.offer(frontier, level), self.num_nodes - num_nodes
        if self.threshold is not None:
            return offer.slots(self.threshold).best(room)
        descendants = self.descendants if level < self.depth - 1 else 0.0
        return offer.slots(offer.threshold(room, descendants)).best(room)

    def offer(self, frontier: Frontier, level: int) -> "Offer":
        """What the nodes of a frontier could have as children."""
        probs, ids = largest(frontier.predicted, self.max_placed)  # (F, M)
        scale = self.acceptance.placed_at(level)
        alphas = self.acceptance.sampled_at(level, frontier.predicted, self.max_sampled)  # (F, K)
        values = (frontier.values[:, None] * probs * scale).clamp(max=1)  # (F, M)
        gains = values * (1 - self.covered)
        offer = Offer(ids, probs, values, gains, frontier.values[:, None] * alphas)
        return offer if frontier.step is None else offer.with_step(frontier, scale, self.covered)

    def worth_reading(self, children: Children, num_nodes: Number) -> tuple[Tensor, Tensor]:
        """The most valuable children, no more than there is room below them, that may have one above the threshold."""
        values, room = children.values, self.num_nodes - num_nodes
        best = values.topk(min(self.max_read, len(values), room if isinstance(room, int) else self.num_nodes - 1))
        meant = best.values >= (self.threshold or 0.0)
        if not isinstance(room, int):
            meant = meant & (torch.arange(len(meant), device=meant.device) < room)
        read, order = best.indices.sort()
        return read, meant[order]


@dataclass(frozen=True)
class Offer:
    """All slots of a level, before a threshold. `threshold` may have leading dimensions (G,), which results keep."""

    placed: Tensor  # (F, M) draft ids, most probable first
    probs: Tensor  # (F, M) their draft probabilities
    placed_values: Tensor  # (F, M)
    placed_gains: Tensor  # (F, M) the part of the value that no sampled sibling would win
    sampled_values: Tensor  # (F, K) if nothing were placed beside them

    def with_step(self, frontier: Frontier, scale: float, covered: float) -> "Offer":
        """With a column for what the scaffold suggests, which its node is then offered nowhere else.

        Sampled siblings would win it as often as the draft has it, which tells nothing of what the text knows.
        """
        assert frontier.step is not None, "there is no step to offer"
        ids, here = frontier.step_slot  # (F, 1) each
        drafted = (frontier.predicted.gather(1, ids) * scale).clamp(max=1)  # (F, 1)
        probs = believed(drafted, frontier.step.acceptance) * here
        values = frontier.values[:, None]
        elsewhere = (self.placed != ids) | ~here  # (F, M)
        is_read = frontier.rows[:, None] != UNREAD  # of a law of zeros nothing can be drawn
        return Offer(
            torch.cat([self.placed, ids], dim=1),
            torch.cat([self.probs, probs], dim=1),
            torch.cat([self.placed_values * elsewhere, values * probs], dim=1),
            torch.cat([self.placed_gains, values * (probs - covered * drafted * here)], dim=1),
            self.sampled_values * is_read,
        )

    def slots(self, threshold: Tensor | float) -> "Slots":
        """The slots worth the threshold; a placed token counts by its gain, a sampled slot by what is left to it."""
        least = threshold[..., None, None] if isinstance(threshold, Tensor) else threshold
        is_placed = (self.placed_gains >= least) & (self.placed_values > 0)  # (.., F, M)
        rest = (1 - (self.probs * is_placed).sum(-1, keepdim=True)).clamp(min=0)  # (.., F, 1)
        sampled = self.sampled_values * rest  # (.., F, K)
        return Slots(self.placed, self.placed_values * is_placed, sampled * (sampled >= least))

    def threshold(self, room: Number, descendants: float) -> Tensor:
        """The least threshold of a grid whose slots, with the descendants they lead to, find room.

        Where they would leave a last node alone, which is not worth another draft step: whose slots find room.
        """
        grid = _grid(self.probs.dtype, self.probs.device)  # (G,)
        values = self.slots(grid).values.flatten(1)  # (G, F * (M + K))
        counts = (values > 0).sum(-1)  # (G,)
        fitting = _last(counts + descendants * values.sum(-1) / grid <= room)
        is_last = room - counts.take(fitting) <= 1  # an index of no dimension would be waited for
        return grid.take(torch.where(is_last, _last(counts <= room), fitting))


@lru_cache(maxsize=16)
def _grid(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Thresholds (G,), in steps of a sixth."""
    return torch.logspace(0, -4, 49, dtype=dtype, device=device)


def _last(fits: Tensor) -> Tensor:
    """The last of the leading entries (G,) that are true, or the first of all."""
    return fits.cumprod(0).sum().clamp(min=1) - 1


@dataclass(frozen=True)
class Slots:
    """Candidates of one level; those of value 0 do not count."""

    placed: Tensor  # (F, M) draft ids
    placed_values: Tensor  # (.., F, M)
    sampled_values: Tensor  # (.., F, K), descending in a row

    @property
    def values(self) -> Tensor:
        """(.., F, M + K)"""
        return torch.cat([self.placed_values, self.sampled_values], dim=-1)

    def best(self, room: Number) -> Families:
        """The `room` most valuable ones. Of a node's sampled slots the first ones stay, whatever the room."""
        values = self.values
        order = values.flatten().sort(descending=True, stable=True).indices  # (F * (M + K),)
        places = torch.arange(len(order), device=order.device)
        chosen = torch.empty_like(order, dtype=torch.bool).scatter_(0, order, places < room)
        is_kept = chosen.view_as(values) & (values > 0)  # (F, M + K)
        num_placed = self.placed.shape[1]
        num_sampled = is_kept[:, num_placed:].sum(-1)  # (F,)
        return Families(self.placed, self.placed_values, is_kept[:, :num_placed], num_sampled, self.sampled_values)
