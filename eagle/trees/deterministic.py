"""The deterministic tree of EAGLE-2 and EAGLE-3, the reference of every other policy.

Whatever is on an accelerator stays there until all levels are read. Which candidates can still matter is not asked
there, as the host would have to wait for the answer: all of a level's best are expanded, and the tree is the same.

Letters: N nodes including the root, F nodes of a frontier, C candidates of all levels, Vd draft vocabulary.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from eagle.chance import Chance
from eagle.judging import COUPLED
from eagle.trees.best import largest
from eagle.trees.protocols import Expansion, Growing, Proposer, bare_root, check_counts, check_number
from eagle.trees.scaffold import Step, believed
from hsd_verify import DraftTree
from hsd_verify.transfer import to_host


@dataclass(frozen=True)
class EagleTree:
    """The dynamic deterministic tree of EAGLE-2 and EAGLE-3 (arXiv 2406.16858, sections 4.1 and 4.2).

    Every level expands the `top_k` candidates with the largest joint draft probability, each into its `top_k` most
    probable tokens; at the end the best `num_nodes - 1` candidates of all levels stay, re-ranked by the same measure.
    The draft law is taken at temperature 1 as published, unless `draft_temperature` says otherwise.

    The same tree as published for less: a candidate whose descendants cannot reach the best `num_nodes - 1` any more is
    not expanded, and growth ends where no such candidate is left.
    """

    num_nodes: int = 10  # N, with the root
    depth: int = 5  # levels below the root
    top_k: int = 4  # children per node and nodes expanded per level
    draft_temperature: float | None = 1.0  # None: the sampling temperature (1 when that is greedy)

    verifier: ClassVar[str] = COUPLED

    def __post_init__(self) -> None:
        check_counts(num_nodes=(self.num_nodes, 1), depth=(self.depth, 0), top_k=(self.top_k, 1))
        if self.draft_temperature is not None:
            check_number("draft_temperature", self.draft_temperature, above=0)

    def grow(self, proposer: Proposer, chance: Chance, max_depth: int) -> Growing:
        temperature = self.draft_temperature or chance.sampling.temperature or 1.0

        def values(logits: Tensor, depth: int) -> Values:
            scaled = logits.float() if temperature == 1 else logits.float() / temperature  # a pass over all of them
            return Values(scaled.log_softmax(-1), are_logs=True)

        return grow_best(self, proposer, min(self.depth, max_depth), values)


class Shape(Protocol):
    """The sizes of a tree that is grown by joint values and re-ranked at the end."""

    @property
    def num_nodes(self) -> int: ...

    @property
    def top_k(self) -> int: ...


class Values(NamedTuple):
    """Of every token the probability that it is the accepted one, or its logarithm: one is the cheaper for each tree.

    To take logarithms of all takes longer than to find the best.
    """

    numbers: Tensor  # (F, Vd)
    are_logs: bool

    def logs(self) -> Tensor:
        """Log probabilities (F, Vd)."""
        return self.numbers if self.are_logs else self.numbers.log()

    def best(self, num: int) -> tuple[Tensor, Tensor]:
        """Log probabilities of the best tokens, falling, and their draft ids: (F, num) each, less where there are."""
        numbers, ids = largest(self.numbers, num)
        return Values(numbers, self.are_logs).logs(), ids


Level = tuple[Tensor, Tensor, Tensor]
"""Candidates: tokens, parents (index among those of all levels, -1 the root) and joint log values."""

ValuesOf = Callable[[Tensor, int], Values]
"""Draft logits (F, Vd) after nodes of a depth -> the values of the tokens that may follow there."""


def grow_best(shape: Shape, proposer: Proposer, depth: int, values_of: ValuesOf) -> Growing:
    """The tree of `EagleTree` for any values, no deeper than `depth`.

    What the text suggests is a candidate, too: where its place is expanded with what text and draft say together, and
    beyond, as a chain, with what the text says alone.
    """
    if depth == 0 or shape.num_nodes == 1:
        return bare_root(proposer)
    steps = proposer.scaffold.steps(proposer.vocabulary)[:depth]
    levels = yield from _levels(shape, proposer, depth, values_of, steps)
    tokens, parents, scores = to_host(*(torch.cat(parts) for parts in zip(*levels, strict=True)))  # too few for there
    if steps:
        tokens, parents, scores = _with_chain(steps, tokens, parents, scores)
    return rerank(proposer.root_token, tokens, parents, scores, shape.num_nodes - 1, proposer.root_logits.device)


def _levels(
    shape: Shape, proposer: Proposer, depth: int, values_of: ValuesOf, steps: Sequence[Step]
) -> Generator[Expansion, Tensor, list[Level]]:
    """All levels."""
    levels: list[Level] = []
    parents = torch.full((1,), -1, device=proposer.root_logits.device)  # of the candidates: the expanded nodes
    scores = torch.zeros_like(parents, dtype=torch.float32)
    rows = torch.zeros_like(parents)  # the proposer's number of each expanded node
    is_end = torch.ones_like(parents, dtype=torch.bool)  # of the scaffold, which of the expanded nodes
    values = values_of(proposer.root_logits[None], 0)  # (1, Vd)
    num_candidates = num_rows = 0
    pool = scores[:0]  # the scores that would stay if growth ended here
    for level in range(depth):
        step = steps[level] if level < len(steps) else None
        if step is not None:
            values = Values(values.logs(), are_logs=True)
            drafted = values.numbers[:, step.draft_id]  # (F,)
            drafted.copy_(torch.where(is_end, believed(drafted.exp(), step.acceptance).log(), drafted))
        logs, ids = values.best(shape.top_k)  # (F, top_k)
        tokens, width = proposer.vocabulary.target_ids[ids].flatten(), ids.shape[1]
        joint = (scores[:, None] + logs.clamp_(max=0)).flatten()  # rounding may leave a probability above 1
        levels.append((tokens, parents.repeat_interleave(width), joint))
        if level == depth - 1:
            break
        chosen = joint.topk(min(shape.top_k, joint.numel())).indices.sort().values  # (F,)
        if joint.is_cpu:
            pool = torch.cat([pool, joint])
            pool = pool.topk(min(shape.num_nodes - 1, len(pool))).values
            if len(pool) == shape.num_nodes - 1:  # full: a child scores at most what its parent does
                chosen = chosen[joint[chosen] > pool[-1]]
        if not len(chosen):
            break
        if step is not None:
            is_end = is_end[chosen // width] & (tokens[chosen] == step.token)
        logits = yield Expansion(tokens[chosen], rows[chosen // width])  # (F, Vd)
        values, scores, parents = values_of(logits, level + 1), joint[chosen], chosen + num_candidates
        rows = torch.arange(1, 1 + chosen.numel(), device=rows.device) + num_rows
        num_candidates, num_rows = num_candidates + joint.numel(), num_rows + chosen.numel()
    return levels


def _with_chain(
    steps: Sequence[Step], tokens: Tensor, parents: Tensor, scores: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates (C,) with the rest of the scaffold behind them, below the node of it that was not expanded any more.

    Where an expanded one has better children than the next token of the scaffold, it ends.
    """
    expanded = set(above := parents.tolist())
    places = {edge: place for place, edge in enumerate(zip(above, tokens.tolist(), strict=True))}
    end, chain = -1, list(steps)
    while chain and (end, chain[0].token) in places:
        end = places[end, chain.pop(0).token]
    if not chain or end in expanded:
        return tokens, parents, scores
    first, last = len(tokens), len(tokens) + len(chain) - 1
    joint = scores[end] + scores.new_tensor([math.log(step.acceptance) for step in chain]).cumsum(0)  # (n,)
    return (
        torch.cat([tokens, tokens.new_tensor([step.token for step in chain])]),
        torch.cat([parents, parents.new_tensor([end, *range(first, last)])]),
        torch.cat([scores, joint]),
    )


def rerank(
    root_token: int, tokens: Tensor, parents: Tensor, scores: Tensor, budget: int, device: torch.device | None = None
) -> DraftTree:
    """The `budget` candidates with the largest joint probability, as a deterministic tree below the root.

    The tree lies on `device`, None: where the candidates do.

    tokens, parents, scores (C,): parents index the candidates, -1 is the root, a parent stands before its children.
    A child's score never exceeds its parent's and ties go to the earlier one, so no node is kept without its parent.
    Only for placed nodes: to prune a sampled node by the token it drew would change the law it was drawn from.
    """
    kept = scores.sort(descending=True, stable=True).indices[:budget].sort().values  # (N - 1,)
    node_of = torch.full((tokens.numel() + 1,), 0, dtype=torch.int64, device=tokens.device)
    node_of[kept] = torch.arange(1, kept.numel() + 1, device=tokens.device)  # the last entry, index -1, is the root
    root = torch.tensor([root_token], device=tokens.device)
    no_parent = torch.full_like(root, -1)
    return DraftTree(torch.cat([no_parent, node_of[parents[kept]]]), torch.cat([root, tokens[kept]]), device=device)
