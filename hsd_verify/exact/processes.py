"""Drafting processes small enough to list: every tree a drafter can produce, with its probability.

Letters: N nodes including the root, V vocabulary.

A process is any callable `process(prefix) -> iterable of (probability, DraftTree)`, where `prefix` is the tuple of
tokens emitted so far and the probabilities sum to 1. `Drafting` is the general one, a fixed shape filled by a draft
law; the functions below it name the usual shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hsd_verify.tree import DraftTree

Text = tuple[int, ...]
Model = Callable[[Text], Tensor]  # text so far -> (V,) law of the next token
Filling = dict[int, int]  # slot of the shape -> its token; slots without a token are absent


@dataclass(frozen=True)
class Drafting:
    """A fixed shape whose placed slots take the draft's most likely tokens, beside which sampled slots are drawn.

    A node with m placed slots gives them its m most likely tokens D (ties: lowest id first). Its sampled slots are
    drawn in index order from the draft law restricted to V without D: i.i.d., or without replacement. A slot for which
    no token is left is dropped with everything below it.
    """

    draft: Model
    parents: Sequence[int]  # (N,) as in DraftTree
    sampled: Sequence[bool]  # (N,) as in DraftTree
    replacement: bool = False

    def __call__(self, prefix: Text = ()) -> Iterator[tuple[float, DraftTree]]:
        """Every tree that may follow `prefix`, with its probability."""
        root = prefix[-1] if prefix else 0
        for prob, filling in self._fill(prefix, 1, {0: root}):
            yield prob, self._tree(prefix, filling)

    def _fill(self, prefix: Text, slot: int, filling: Filling) -> Iterator[tuple[float, Filling]]:
        if slot == len(self.parents):
            yield 1.0, filling
            return
        for prob, token in self._choices(prefix, slot, filling):
            extended = filling if token is None else {**filling, slot: token}
            for rest, filled in self._fill(prefix, slot + 1, extended):
                yield prob * rest, filled

    def _choices(self, prefix: Text, slot: int, filling: Filling) -> list[tuple[float, int | None]]:
        """Tokens slot may take, with probabilities; the token None drops it."""
        parent = self.parents[slot]
        if parent not in filling:
            return [(1.0, None)]
        text = prefix + self._path_tokens(parent, filling)
        if self.sampled[slot]:
            return self._drawn_choices(text, slot, filling)
        placed, rank = self._placed_tokens(text, parent), self._siblings(slot, sampled=False).index(slot)
        return [(1.0, placed[rank] if rank < len(placed) else None)]

    def _drawn_choices(self, text: Text, slot: int, filling: Filling) -> list[tuple[float, int | None]]:
        law = self._proposal(text, self.parents[slot])  # (V,)
        if not self.replacement:
            law[[filling[s] for s in self._siblings(slot, sampled=True) if s < slot and s in filling]] = 0
        total = law.sum()
        if total == 0:
            return [(1.0, None)]
        return [(prob, token) for token, prob in enumerate((law / total).tolist()) if prob > 0]

    def _proposal(self, text: Text, slot: int) -> Tensor:
        """Law (V,) of the first sampled child of a slot; all zero if its placed children leave no token."""
        law = self.draft(text).clone()  # (V,)
        law[self._placed_tokens(text, slot)] = 0
        return law / law.sum() if law.sum() > 0 else law

    def _placed_tokens(self, text: Text, slot: int) -> list[int]:
        num_placed = sum(p == slot and not s for p, s in zip(self.parents, self.sampled, strict=True))
        return self.draft(text).sort(descending=True, stable=True).indices[:num_placed].tolist()

    def _siblings(self, slot: int, sampled: bool) -> list[int]:
        same = (p == self.parents[slot] and s == sampled for p, s in zip(self.parents, self.sampled, strict=True))
        return [i for i, kept in enumerate(same) if kept]

    def _path_tokens(self, slot: int, filling: Filling) -> Text:
        return () if slot == 0 else (*self._path_tokens(self.parents[slot], filling), filling[slot])

    def _tree(self, prefix: Text, filling: Filling) -> DraftTree:
        slots = sorted(filling)
        node_of = {slot: node for node, slot in enumerate(slots)}
        drawing = {self.parents[s] for s in slots if self.sampled[s]}
        rows = [self._proposal(prefix + self._path_tokens(s, filling), s) for s in slots]  # N of (V,)
        draft_probs = torch.stack(
            [row if s in drawing else torch.zeros_like(row) for row, s in zip(rows, slots, strict=True)]
        )
        return DraftTree(
            parents=torch.tensor([-1, *(node_of[self.parents[s]] for s in slots[1:])]),
            tokens=torch.tensor([filling[s] for s in slots]),
            sampled=torch.tensor([self.sampled[s] for s in slots]),
            draft_probs=draft_probs if drawing else None,
            replacement=self.replacement,
        )


def branching(draft: Model, placed: int, sampled: int, depth: int, replacement: bool = False) -> Drafting:
    """Complete tree: every node above `depth` has `sampled` drawn and then `placed` deterministic children."""
    parents, flags, level = [-1], [False], [0]
    for _ in range(depth):
        start = len(parents)
        for node in level:
            parents += [node] * (sampled + placed)
            flags += [True] * sampled + [False] * placed
        level = list(range(start, len(parents)))
    return Drafting(draft, parents, flags, replacement)


def chain(draft: Model, depth: int) -> Drafting:
    """One sampled path."""
    return branching(draft, 0, 1, depth)


def iid(draft: Model, num_children: int, depth: int) -> Drafting:
    """i.i.d. children at every node; duplicates stay separate nodes."""
    return branching(draft, 0, num_children, depth, replacement=True)


def without_replacement(draft: Model, num_children: int, depth: int) -> Drafting:
    """Distinct sampled children at every node."""
    return branching(draft, 0, num_children, depth)


def deterministic(draft: Model, num_children: int, depth: int) -> Drafting:
    """The draft's top-k at every node."""
    return branching(draft, num_children, 0, depth)


def hybrid(draft: Model, placed: int, sampled: int, depth: int, replacement: bool = False) -> Drafting:
    """The draft's top-`placed` and, beside them, `sampled` drawn children at every node."""
    return branching(draft, placed, sampled, depth, replacement)


def paths(draft: Model, num_paths: int, depth: int) -> Drafting:
    """i.i.d. paths from the root, never merged: node `1 + k * depth + d` is token d of path k."""
    parents = [-1]
    for _ in range(num_paths):
        parents += [0, *range(len(parents), len(parents) + depth - 1)]
    return Drafting(draft, parents, [False] + [True] * (num_paths * depth), replacement=True)
