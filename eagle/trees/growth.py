"""Growing a tree level by level, the loop all randomised policies share; a policy is the rule that fills a family.

    rule      laws and values of a level -> `Families`: which slots every node gets, before any token is drawn
    growth    fills the slots: placed ones with their tokens, sampled ones from the law without the placed tokens
    proposer  reads the children worth reading -> laws of the next level
    scaffold  what the text suggests is one more placed slot of one node a level, which the rule weighs with the others;
              where its end is not read the chain goes on with a law of zeros, from which nothing is drawn

How many slots exist follows from the laws, and an accelerator that is asked for it is waited for. So whatever has no
more than its largest number of rows is masked there (`exists`), and growth ends at its depth; on a CPU rows that do
not exist are left out instead, and growth ends with them. The trees and their laws are the same; what is drawn for
slots that do not exist is thrown away.

Why this is lossless whatever the rule decides: take the node whose family was filled last. Given everything before,
its sampled tokens follow the recorded laws, so with the family the verifier emits, in expectation, the text it would
emit with that node a leaf. Remove families last to first: the bare root remains, which emits the target's own law. The
argument needs a family to be decided whole, before its first token is drawn. Adding or dropping a slot of it later, by
what was drawn meanwhile, breaks it, and this is the trap of best-first growth and of re-ranking at the end: whether a
node gets its sampled child would then depend on tokens drawn below its placed children, which are tested afterwards.

Letters: F nodes of a frontier, M placed slots and K sampled slots of a node at most, C children of a level, N nodes of
the tree, V target vocabulary, Vd draft vocabulary.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from eagle.chance import Chance
from eagle.sampling import Sampling
from eagle.trees.protocols import Expansion, Growing, Proposer, bare_root
from eagle.trees.sapling import UNREAD, Children, Families, Frontier, Number, Sapling
from eagle.trees.scaffold import Step

Filled = tuple[Tensor, Tensor, Tensor, Tensor]  # draft ids, parents, values, bool whether they exist: (n,) each


class Rule(Protocol):
    """The part of growth that differs between policies. It never sees a token that is still to be drawn.

    Where the frontier has a step of the scaffold, a rule offers it as a placed slot (`Frontier.step_slot`) or does not,
    by its value; a slot of the same token is then left out.
    """

    @property
    def replacement(self) -> bool:
        """Sampled siblings are i.i.d. draws."""
        ...

    def families(self, frontier: Frontier, level: int, num_nodes: Number) -> Families:
        """Slots of the frontier's nodes, `level` levels below the root, when the tree has `num_nodes` nodes."""
        ...

    def worth_reading(self, children: Children, num_nodes: Number) -> tuple[Tensor, Tensor]:
        """Which children the proposer shall read; the tree now has `num_nodes` nodes.

        Ascending indices (F,), as many as are read at most, and which of them are meant, (F,) bool.
        """
        ...


def leaves_out(tensor: Tensor) -> bool:
    """Whether to ask which rows exist, and to go on without the others: where that is no wait."""
    return tensor.is_cpu


@dataclass(frozen=True)
class Growth:
    """One round: who decides, who proposes, how tokens are drawn."""

    rule: Rule
    proposer: Proposer
    chance: Chance  # its sampling is that of the laws that are drawn from
    predicting: Sampling | None = None  # of the laws that values are read off; None: those

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """What the text suggests, level by level."""
        return self.proposer.scaffold.steps(self.proposer.vocabulary)

    def tree(self, depth: int) -> Growing:
        """A tree no deeper than `depth`, every family of which was decided by the rule before it was drawn."""
        if depth < 1:
            return bare_root(self.proposer)
        sapling, frontier = Sapling(self.proposer), self._root()
        for level in range(depth):
            families = self.rule.families(frontier, level, sapling.num_nodes)
            children = self._fill(families, frontier, sapling)
            sapling.add(children, frontier)
            if level == depth - 1:
                break
            following = yield from self._following(children, frontier, sapling, level + 1)
            if following is None:
                break
            frontier = following
        return sapling.tree(self.rule.replacement)

    def _root(self) -> Frontier:
        zero = torch.zeros(1, dtype=torch.int64, device=self.proposer.root_logits.device)
        laws, predicted = self._laws(self.proposer.root_logits[None])  # (1, Vd) each
        root = Frontier(zero, zero, laws.new_ones(1), laws, predicted)
        step = self._step(0)
        return root if step is None else replace(root, step=step, is_end=torch.ones_like(zero, dtype=torch.bool))

    def _step(self, level: int) -> Step | None:
        return self.steps[level] if level < len(self.steps) else None

    def _following(
        self, children: Children, frontier: Frontier, sapling: Sapling, level: int
    ) -> Generator[Expansion, Tensor, Frontier | None]:
        """The next frontier: children worth reading, with their laws, and the end of the scaffold; None without any."""
        read, exists = self._worth_reading(children, frontier, sapling)  # (F,)
        following = None
        if len(read):
            following = yield from self._read(children, frontier, read, exists, sapling)
        is_end, step = children.is_step(frontier), self._step(level)
        if is_end is None or step is None or (leaves_out(is_end) and not is_end.any()):
            return following
        nodes = torch.arange(sapling.num_slots - len(is_end), sapling.num_slots, device=is_end.device)  # (C,)
        return _with_step(
            following, step, (nodes * is_end).sum(), (children.values * is_end).sum(), is_end.any(), frontier
        )

    def _worth_reading(self, children: Children, frontier: Frontier, sapling: Sapling) -> tuple[Tensor, Tensor | None]:
        """Children (F,) to read, and which of them are meant; below a node that was not read nothing can be."""
        readable = children.exists
        if frontier.step is not None:
            below_read = frontier.rows[children.parents] != UNREAD  # (C,)
            readable = below_read if readable is None else readable & below_read
            children = replace(children, values=children.values * below_read)
        read, meant = self.rule.worth_reading(children, sapling.num_nodes)
        if readable is not None:
            meant = meant & readable[read]
        return (read[meant], None) if leaves_out(read) else (read, meant)

    def _read(
        self, children: Children, frontier: Frontier, read: Tensor, exists: Tensor | None, sapling: Sapling
    ) -> Generator[Expansion, Tensor, Frontier]:
        """The children `read` (F,), with their laws."""
        logits = yield Expansion(children.tokens[read], frontier.rows[children.parents[read]])  # (F, Vd)
        nodes = read + (sapling.num_slots - len(children.tokens))
        values = children.values[read] if exists is None else children.values[read] * exists
        return Frontier(nodes, sapling.take_rows(len(read)), values, *self._laws(logits), exists)

    def _laws(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What is drawn from and what values are read off, (F, Vd) each."""
        laws = self.chance.sampling.law(logits)
        return laws, laws if self.predicting in (None, self.chance.sampling) else self.predicting.law(logits)

    def _fill(self, families: Families, frontier: Frontier, sapling: Sapling) -> Children:
        """Tokens for all slots of a level."""
        parts = list(self._sampled(families, frontier, sapling))
        num_drawn = sum(len(ids) for ids, *_ in parts)
        parts.append(_placed(families, frontier))
        ids, parents, values, exists = (torch.cat(part) for part in zip(*parts, strict=True))  # (C,)
        sampled = torch.arange(len(ids), device=ids.device) < num_drawn
        tokens = self.proposer.vocabulary.target_ids[ids]
        if leaves_out(ids):
            return Children(tokens, parents, values, sampled, num_drawn)
        return Children(tokens, parents, values * exists, sampled, num_drawn, exists)

    def _sampled(self, families: Families, frontier: Frontier, sapling: Sapling) -> Iterator[Filled]:
        """Rank by rank the sampled slots; records the laws they were drawn from."""
        most = families.sampled_values.shape[1]  # K
        parents, counts = _draw_at_most(families, frontier)  # (n,)
        if not most or not len(parents):
            return
        weights = _without_placed(families, frontier.laws, parents)  # (n, Vd)
        counts = torch.minimum(counts, self._num_drawable(weights, families, frontier))  # (n,)
        if leaves_out(counts):
            most = int(counts.max())
            if not int(counts.min()):
                parents, weights, counts = parents[counts > 0], weights[counts > 0], counts[counts > 0]
        if most:
            nodes = torch.where(counts > 0, frontier.nodes[parents], -1)
            sapling.record(nodes, weights / weights.sum(-1, keepdim=True))
        for rank in range(most):
            yield self._rank(rank, families, parents, weights, counts)

    def _rank(self, rank: int, families: Families, parents: Tensor, weights: Tensor, counts: Tensor) -> Filled:
        """One draw at every node that has so many; weights (n, Vd) lose what was drawn."""
        exists, values = counts > rank, families.sampled_values[parents, rank]
        if leaves_out(exists):
            rows = exists.nonzero()[:, 0]
            drawing = weights if len(rows) == len(weights) else weights.index_select(0, rows)
            ids = self.chance.draw(drawing, self.chance.generator)
            if not self.rule.replacement:
                weights[rows, ids] = 0.0
            return ids, parents[rows], values[rows], exists[rows]
        ids = self.chance.draw(_or_first(weights, exists), self.chance.generator)
        if not self.rule.replacement:
            weights.scatter_(1, ids[:, None], 0.0)
        return ids, parents, values, exists

    def _num_drawable(self, weights: Tensor, families: Families, frontier: Frontier) -> Tensor:
        """How many siblings each row (n, Vd) has tokens for, (n,), or more than are asked for."""
        num_placed, num_asked = families.placed.shape[1], families.sampled_values.shape[1]
        if leaves_out(weights) and num_placed + num_asked <= weights.shape[1] and float(frontier.laws.amin()) > 0:
            return torch.full_like(frontier.nodes[:1], UNLIMITED)  # a look for zeros is a fraction of a count
        support = (weights > 0).sum(-1)
        return support.clamp(max=1) * UNLIMITED if self.rule.replacement else support


UNLIMITED = 2**31


def _placed(families: Families, frontier: Frontier) -> Filled:
    is_placed = families.is_placed if frontier.exists is None else families.is_placed & frontier.exists[:, None]
    if leaves_out(is_placed):
        parents, slots = is_placed.nonzero(as_tuple=True)
        return (
            families.placed[parents, slots],
            parents,
            families.placed_values[parents, slots],
            is_placed[parents, slots],
        )
    parents = torch.arange(len(is_placed), device=is_placed.device).repeat_interleave(is_placed.shape[1])
    return families.placed.flatten(), parents, families.placed_values.flatten(), is_placed.flatten()


def _draw_at_most(families: Families, frontier: Frontier) -> tuple[Tensor, Tensor]:
    """Nodes (n,) that may draw, and how many siblings each."""
    counts = families.num_sampled if frontier.exists is None else families.num_sampled * frontier.exists
    if leaves_out(counts):
        parents = counts.nonzero()[:, 0]
        return parents, counts[parents]
    return torch.arange(len(counts), device=counts.device), counts


def _or_first(weights: Tensor, exists: Tensor) -> Tensor:
    """Weights (n, Vd), and those of draft id 0 alone where nothing is to be drawn."""
    weights = weights * exists[:, None]
    weights[:, 0] += ~exists
    return weights


def _with_step(
    following: Frontier | None, step: Step, node: Tensor, value: Tensor, exists: Tensor, before: Frontier
) -> Frontier:
    """A frontier with a step of the scaffold below a node of the tree, which is added with zeros if it is not there.

    node, value, exists: (), of the node.
    """
    zeros = torch.zeros_like(before.laws[:1])  # (1, Vd)
    number = torch.zeros_like(before.nodes[:1]) + node
    end = exists[None]  # (1,)
    unread = Frontier(number, torch.full_like(number, UNREAD), value[None], zeros, zeros, end, step, end)
    if following is None:
        return replace(unread, exists=None) if leaves_out(end) else unread
    is_end = (following.nodes == node) & exists  # (F,)
    if following.exists is None:
        is_read = bool(is_end.any())
        following = replace(following, step=step, is_end=is_end)
        return following if is_read else following.followed_by(unread)
    is_end = is_end & following.exists
    unread = replace(unread, exists=end & ~is_end.any(), is_end=end & ~is_end.any())
    return replace(following, step=step, is_end=is_end).followed_by(unread)


def _without_placed(families: Families, laws: Tensor, nodes: Tensor) -> Tensor:
    """Laws (n, Vd) of `nodes` (n,) without the tokens of their placed children, not renormalised."""
    placed, laws = families.placed[nodes], laws.index_select(0, nodes)  # (n, M), (n, Vd)
    kept = laws.gather(1, placed).masked_fill(families.is_placed[nodes], 0.0)
    return laws.scatter_reduce_(1, placed, kept, "amin")  # a token may stand in two slots, one of which is not there
