"""A tree under construction, and the columns a level adds to it.

On a CPU slots that do not exist are left out as soon as that is known. An accelerator would have to be waited for to
know how many they are: there they are kept, `exists` says which they are, and the host reads all columns once.

Letters: F nodes of a frontier, M placed slots and K sampled slots of a node at most, C children of a level, N nodes of
the tree, S slots of all levels with the root, R nodes that may draw, V target vocabulary, Vd draft vocabulary.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eagle.trees.protocols import Proposer
from eagle.trees.scaffold import Step
from hsd_verify import DraftTree
from hsd_verify.transfer import to_device, to_host

UNREAD = -1
Number = int | Tensor  # (), a tensor where only the device knows it


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

    nodes: Tensor  # (F,) their slots
    rows: Tensor  # (F,) their number at the proposer, `UNREAD` where it did not read one
    values: Tensor  # (F,) predicted probability that each is accepted; 0 where there is none
    laws: Tensor  # (F, Vd) what sampled children are drawn from
    predicted: Tensor  # (F, Vd) what the draft expects of the target, which values are read off
    exists: Tensor | None = None  # (F,) bool; None: all of them
    step: Step | None = None  # of the scaffold, below at most one of the nodes
    is_end: Tensor | None = None  # (F,) bool, which one; None where there is no step

    def followed_by(self, unread: "Frontier") -> "Frontier":
        """With more nodes, one of which may be the one to take the step below."""
        columns = ("nodes", "rows", "values", "laws", "predicted", "exists", "is_end")
        pairs = {one: (getattr(self, one), getattr(unread, one)) for one in columns}
        joined: dict[str, Any] = {one: None if pair[0] is None else torch.cat(pair) for one, pair in pairs.items()}
        return Frontier(**joined, step=unread.step)

    @property
    def step_slot(self) -> tuple[Tensor, Tensor]:
        """The placed slot that the step asks for: draft ids (F, 1) and where they are meant, bool (F, 1)."""
        assert self.step is not None and self.is_end is not None, "ask for a step first"
        return torch.full_like(self.nodes, self.step.draft_id)[:, None], self.is_end[:, None]


@dataclass(frozen=True)
class Children:
    """The filled slots of one level, in the order they enter the tree: sampled ones by rank, then placed ones."""

    tokens: Tensor  # (C,) target ids
    parents: Tensor  # (C,) index in the frontier
    values: Tensor  # (C,)
    sampled: Tensor  # (C,) bool
    num_drawn: int | None = None  # the first so many of them are sampled slots; None: look at `sampled`
    exists: Tensor | None = None  # (C,) bool; None: all of them

    def is_step(self, frontier: Frontier) -> Tensor | None:
        """The child that the frontier's step asked for, (C,) bool, at most one; None without a step.

        Always a placed one: whether it is there no draw decides.
        """
        if frontier.step is None or frontier.is_end is None:
            return None
        asked = frontier.is_end[self.parents] & (self.tokens == frontier.step.token) & ~self.sampled
        return asked if self.exists is None else asked & self.exists


@dataclass
class Sapling:
    """The tree so far. Columns are collected level by level and joined once."""

    proposer: Proposer
    num_slots: int = 1
    num_nodes: Number = 1  # slots that exist
    num_rows: int = 1  # rows the proposer has numbered
    _tokens: list[Tensor] = field(default_factory=list)
    _parents: list[Tensor] = field(default_factory=list)
    _sampled: list[Tensor] = field(default_factory=list)
    _exists: list[Tensor] = field(default_factory=list)  # where slots may not
    _laws: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # nodes (n,) that may draw, their laws (n, Vd)

    def add(self, children: Children, frontier: Frontier) -> None:
        self._tokens.append(children.tokens)
        self._parents.append(frontier.nodes[children.parents])
        self._sampled.append(children.sampled)
        self.num_slots += len(children.tokens)
        if children.exists is None:
            self.num_nodes += len(children.tokens)
        else:
            self._exists.append(children.exists)
            self.num_nodes = self.num_nodes + children.exists.sum()

    def take_rows(self, num: int) -> Tensor:
        """The proposer's numbers of the `num` rows it has just expanded."""
        self.num_rows += num
        return torch.arange(self.num_rows - num, self.num_rows, device=self.proposer.root_logits.device)

    def record(self, nodes: Tensor, laws: Tensor) -> None:
        """The first sampled child of `nodes` (n,), -1 for none, was drawn from `laws` (n, Vd)."""
        self._laws.append((nodes, laws))

    def tree(self, replacement: bool) -> DraftTree:
        """All of it, in one transfer to the host."""
        drawing = [nodes for nodes, _ in self._laws] or [self._tokens[0][:0]]
        exists = self._exists or [self._sampled[0][:0]]
        columns = (self._parents, self._tokens, self._sampled, exists, drawing)
        parents, tokens, sampled, kept, nodes = to_host(*map(torch.cat, columns))
        parents, tokens, sampled = (
            torch.cat([first.new_tensor([root]), first])
            for root, first in ((-1, parents), (self.proposer.root_token, tokens), (False, sampled))
        )
        if len(kept):
            kept = torch.cat([kept.new_ones(1), kept])  # (S,)
            number = torch.where(kept, kept.cumsum(0) - 1, -1)  # (S,) of the slots that exist
            number = torch.cat([number, number.new_full((1,), -1)])  # for -1, what is no slot
            parents, nodes = number[parents], number[nodes]
            parents, tokens, sampled = parents[kept], tokens[kept], sampled[kept]
        probs = self._draft_probs(nodes.tolist(), set(parents[sampled].tolist()), len(parents))
        return DraftTree(parents, tokens, sampled, probs, replacement, device=self.proposer.root_logits.device)

    def _draft_probs(self, nodes: list[int], drawing: set[int], num_nodes: int) -> Tensor | None:
        """(N, V): of the laws of `nodes` (R,) those of `drawing`, the parents of sampled nodes; None without any.

        A row of V numbers is dear: only nodes that draw get one, those of the others are zero.
        """
        places = [place for place, node in enumerate(nodes) if node in drawing]
        if not places:
            return None
        vocabulary, laws = self.proposer.vocabulary, torch.cat([laws for _, laws in self._laws])  # (R, Vd)
        rows, index = to_device([[nodes[place] for place in places], places], laws.device)
        laws = laws if len(places) == len(laws) else laws.index_select(0, index)
        probs = laws.new_zeros(num_nodes, vocabulary.t2d.numel())  # (N, V)
        places_of_all = rows[:, None] * probs.shape[1] + vocabulary.target_ids  # (n, Vd)
        probs.view(-1).scatter_(0, places_of_all.view(-1), laws.reshape(-1))  # a third of the time of an index by two
        return probs
