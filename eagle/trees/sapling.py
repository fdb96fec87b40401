"""A tree under construction, and the columns a level adds to it.

Letters: F nodes of a frontier, M placed slots and K sampled slots of a node at most, C children of a level, N nodes of
the tree, n nodes that draw, V target vocabulary, Vd draft vocabulary.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eagle.trees.protocols import Proposer
from eagle.trees.scaffold import Step
from hsd_verify import DraftTree

UNREAD = -1


@dataclass(frozen=True)
class Families:
    """The slots of every node of a frontier."""

    placed: Tensor  # (F, M) draft ids
    placed_values: Tensor  # (F, M) predicted probability that the slot is accepted
    is_placed: Tensor  # (F, M) bool: the slot exists
    num_sampled: Tensor  # (F,) int64, at most K
    sampled_values: Tensor  # (F, K), whatever tokens the slots will draw


@dataclass(frozen=True)
class Frontier:
    """Nodes of one level whose laws are known, and the end of the scaffold even where its law is not: zeros then."""

    nodes: Tensor  # (F,) their number in the tree
    rows: Tensor  # (F,) their number at the proposer, `UNREAD` where it did not read one
    values: Tensor  # (F,) predicted probability that each is accepted
    laws: Tensor  # (F, Vd) what sampled children are drawn from
    predicted: Tensor  # (F, Vd) what the draft expects of the target, which values are read off
    step: Step | None = None  # of the scaffold, below one of the nodes
    step_node: int = 0  # that node's place in the frontier

    def followed_by(self, unread: "Frontier") -> "Frontier":
        """With one more node, whose step is the one to take."""
        columns = ("nodes", "rows", "values", "laws", "predicted")
        joined: dict[str, Any] = {one: torch.cat([getattr(self, one), getattr(unread, one)]) for one in columns}
        return Frontier(**joined, step=unread.step, step_node=len(self.nodes))

    @property
    def step_slot(self) -> tuple[Tensor, Tensor]:
        """The placed slot that the step asks for: draft ids (F, 1) and where they are meant, bool (F, 1)."""
        assert self.step is not None, "ask for a step first"
        here = torch.arange(len(self.nodes), device=self.nodes.device)[:, None] == self.step_node
        return torch.full_like(self.nodes, self.step.draft_id)[:, None], here


@dataclass(frozen=True)
class Children:
    """The filled slots of one level, in the order they enter the tree: sampled ones by rank, then placed ones."""

    tokens: Tensor  # (C,) target ids
    parents: Tensor  # (C,) index in the frontier
    values: Tensor  # (C,)
    sampled: Tensor  # (C,) bool

    def find_step(self, frontier: Frontier) -> int | None:
        """The child that the frontier's step asked for, always a placed one: whether it is there no draw decides."""
        if frontier.step is None:
            return None
        asked = (self.parents == frontier.step_node) & (self.tokens == frontier.step.token) & ~self.sampled
        found = asked.nonzero()[:1]
        return int(found) if len(found) else None


@dataclass
class Sapling:
    """The tree so far. Columns are collected level by level and joined once."""

    proposer: Proposer
    num_nodes: int = 1
    num_rows: int = 1  # rows the proposer has numbered
    _tokens: list[Tensor] = field(default_factory=list)
    _parents: list[Tensor] = field(default_factory=list)
    _sampled: list[Tensor] = field(default_factory=list)
    _laws: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # nodes (n,) that draw, their laws (n, Vd)

    def add(self, children: Children, frontier: Frontier) -> None:
        self._tokens.append(children.tokens)
        self._parents.append(frontier.nodes[children.parents])
        self._sampled.append(children.sampled)
        self.num_nodes += len(children.tokens)

    def take_rows(self, num: int) -> Tensor:
        """The proposer's numbers of the `num` rows it has just expanded."""
        self.num_rows += num
        return torch.arange(self.num_rows - num, self.num_rows, device=self.proposer.root_logits.device)

    def record(self, nodes: Tensor, laws: Tensor) -> None:
        """The first sampled child of `nodes` (n,) was drawn from `laws` (n, Vd)."""
        self._laws.append((nodes, laws))

    def tree(self, replacement: bool) -> DraftTree:
        device = self.proposer.root_logits.device
        root = torch.tensor([self.proposer.root_token], device=device)
        return DraftTree(
            torch.cat([torch.full_like(root, -1), *self._parents]),
            torch.cat([root, *self._tokens]),
            torch.cat([torch.zeros_like(root, dtype=torch.bool), *self._sampled]),
            self._draft_probs(),
            replacement,
        )

    def _draft_probs(self) -> Tensor | None:
        """(N, V), or None where nothing was sampled: a row of V numbers is dear, so only drawing nodes get one."""
        if not self._laws:
            return None
        vocabulary, laws = self.proposer.vocabulary, torch.cat([laws for _, laws in self._laws])  # (n, Vd)
        nodes = torch.cat([nodes for nodes, _ in self._laws])  # (n,)
        probs = laws.new_zeros(self.num_nodes, vocabulary.t2d.numel())  # (N, V)
        probs[nodes[:, None], vocabulary.target_ids[None]] = laws
        return probs
