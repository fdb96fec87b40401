"""Growing a tree level by level, the loop all randomised policies share; a policy is the rule that fills a family.

    rule      laws and values of a level -> `Families`: which slots every node gets, before any token is drawn
    growth    fills the slots: placed ones with their tokens, sampled ones from the law without the placed tokens
    proposer  reads the children worth reading -> laws of the next level
    scaffold  what the text suggests is one more placed slot of one node a level, which the rule weighs with the others;
              where its end is not read the chain goes on with a law of zeros, from which nothing is drawn

Why this is lossless whatever the rule decides: take the node whose family was filled last. Given everything before,
its sampled tokens follow the recorded laws, so with the family the verifier emits, in expectation, the text it would
emit with that node a leaf. Remove families last to first: the bare root remains, which emits the target's own law. The
argument needs a family to be decided whole, before its first token is drawn. Adding or dropping a slot of it later, by
what was drawn meanwhile, breaks it, and this is the trap of best-first growth and of re-ranking at the end: whether a
node gets its sampled child would then depend on tokens drawn below its placed children, which are tested afterwards.

Letters: F nodes of a frontier, M placed slots and K sampled slots of a node at most, C children of a level, N nodes of
the tree, V target vocabulary, Vd draft vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from eagle.chance import Chance
from eagle.sampling import Sampling
from eagle.trees.protocols import Proposer, bare_root
from eagle.trees.sapling import UNREAD, Children, Families, Frontier, Sapling
from eagle.trees.scaffold import Step
from hsd_verify import DraftTree


class Rule(Protocol):
    """The part of growth that differs between policies. It never sees a token that is still to be drawn.

    Where the frontier has a step of the scaffold, a rule offers it as a placed slot (`Frontier.step_slot`) or does not,
    by its value; a slot of the same token is then left out.
    """

    @property
    def replacement(self) -> bool:
        """Sampled siblings are i.i.d. draws."""
        ...

    def families(self, frontier: Frontier, level: int, num_nodes: int) -> Families:
        """Slots of the frontier's nodes, `level` levels below the root, when the tree has `num_nodes` nodes."""
        ...

    def worth_reading(self, values: Tensor, num_nodes: int) -> Tensor:
        """Which children (C,) the proposer shall read, as ascending indices; the tree now has `num_nodes` nodes."""
        ...


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

    def tree(self, depth: int) -> DraftTree:
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
            following = self._following(children, frontier, sapling, level + 1)
            if following is None:
                break
            frontier = following
        return sapling.tree(self.rule.replacement)

    def _root(self) -> Frontier:
        zero = torch.zeros(1, dtype=torch.int64, device=self.proposer.root_logits.device)
        laws, predicted = self._laws(self.proposer.root_logits[None])  # (1, Vd) each
        return Frontier(zero, zero, laws.new_ones(1), laws, predicted, self._step(0))

    def _step(self, level: int) -> Step | None:
        return self.steps[level] if level < len(self.steps) else None

    def _following(self, children: Children, frontier: Frontier, sapling: Sapling, level: int) -> Frontier | None:
        """The next frontier: children worth reading, with their laws, and the end of the scaffold; None without any."""
        end, step = children.find_step(frontier), self._step(level)
        read = self._worth_reading(children, frontier, sapling)  # (F,)
        following = self._read(children, frontier, read, sapling) if len(read) else None
        if end is None or step is None:
            return following
        node = end + sapling.num_nodes - len(children.tokens)
        return _with_step(following, step, node, children.values[end], frontier)

    def _worth_reading(self, children: Children, frontier: Frontier, sapling: Sapling) -> Tensor:
        """Children (F,) that the rule wants read; below a node that was not read nothing can be."""
        if frontier.step is None:
            return self.rule.worth_reading(children.values, sapling.num_nodes)
        below_read = frontier.rows[children.parents] != UNREAD  # (C,)
        read = self.rule.worth_reading(children.values * below_read, sapling.num_nodes)
        return read[below_read[read]]

    def _read(self, children: Children, frontier: Frontier, read: Tensor, sapling: Sapling) -> Frontier:
        """The children `read` (F,), with their laws."""
        logits = self.proposer.expand(children.tokens[read], frontier.rows[children.parents[read]])  # (F, Vd)
        nodes = read + sapling.num_nodes - len(children.tokens)
        return Frontier(nodes, sapling.take_rows(len(read)), children.values[read], *self._laws(logits))

    def _laws(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What is drawn from and what values are read off, (F, Vd) each."""
        laws = self.chance.sampling.law(logits)
        return laws, laws if self.predicting in (None, self.chance.sampling) else self.predicting.law(logits)

    def _fill(self, families: Families, frontier: Frontier, sapling: Sapling) -> Children:
        """Tokens for all slots of a level."""
        parts = list(self._sampled(families, frontier, sapling))
        num_drawn = sum(len(ids) for ids, *_ in parts)
        parents, slots = families.is_placed.nonzero(as_tuple=True)
        parts.append((families.placed[parents, slots], parents, families.placed_values[parents, slots]))
        ids, parents, values = (torch.cat(part) for part in zip(*parts, strict=True))  # (C,)
        sampled = torch.arange(len(ids), device=ids.device) < num_drawn
        return Children(self.proposer.vocabulary.target_ids[ids], parents, values, sampled)

    def _sampled(
        self, families: Families, frontier: Frontier, sapling: Sapling
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rank by rank: draft ids, parents and values of the sampled slots; records the laws they were drawn from."""
        parents = families.num_sampled.nonzero()[:, 0]  # (n,)
        if not len(parents):
            return
        weights = _without_placed(families, frontier.laws, parents)  # (n, Vd)
        counts = torch.minimum(families.num_sampled[parents], self._num_drawable(weights))  # (n,)
        parents, weights, counts = parents[counts > 0], weights[counts > 0], counts[counts > 0]
        sapling.record(frontier.nodes[parents], weights / weights.sum(-1, keepdim=True))
        for rank in range(int(counts.max()) if len(counts) else 0):
            rows = (counts > rank).nonzero()[:, 0]
            ids = self.chance.draw(weights[rows], self.chance.generator)
            if not self.rule.replacement:
                weights[rows, ids] = 0.0
            yield ids, parents[rows], families.sampled_values[parents[rows], rank]

    def _num_drawable(self, weights: Tensor) -> Tensor:
        """How many siblings each row (n, Vd) has tokens for: (n,)."""
        support = (weights > 0).sum(-1)
        return support.clamp(max=1) * UNLIMITED if self.rule.replacement else support


UNLIMITED = 2**31


def _with_step(following: Frontier | None, step: Step, node: int, value: Tensor, before: Frontier) -> Frontier:
    """A frontier with a step of the scaffold below a node of the tree, which is added with zeros if it is not there."""
    zeros = torch.zeros_like(before.laws[:1])  # (1, Vd)
    number = torch.full_like(before.nodes[:1], node)
    unread = Frontier(number, torch.full_like(number, UNREAD), value[None], zeros, zeros, step)
    if following is None:
        return unread
    if len(places := (following.nodes == node).nonzero()):
        return replace(following, step=step, step_node=int(places[0]))
    return following.followed_by(unread)


def _without_placed(families: Families, laws: Tensor, nodes: Tensor) -> Tensor:
    """Laws (n, Vd) of `nodes` (n,) without the tokens of their placed children, not renormalised."""
    placed, laws = families.placed[nodes], laws[nodes]  # (n, M), (n, Vd)
    kept = laws.gather(1, placed).masked_fill(families.is_placed[nodes], 0.0)
    return laws.scatter_reduce_(1, placed, kept, "amin")  # a token may stand in two slots, one of which is not there
