"""Policies that grow a draft tree. No model inside: a `Proposer` answers with draft logits.

Which nodes exist may depend on the tokens of deterministic nodes and on the path above a slot, never on the identity
of a sampled token: that would change the law it was drawn from and break losslessness.

Letters: N nodes including the root, F nodes of a frontier, V target vocabulary, Vd draft vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from eagle.masks import chain_parents
from eagle.sampling import Sampling, draw
from eagle.vocab import DraftVocabulary
from hsd_verify import DraftTree


class Proposer(Protocol):
    """Draft laws on demand, for one round.

    Rows are numbered in the order they were expanded; row 0 is the root, whose logits are there from the start.
    """

    vocabulary: DraftVocabulary
    root_token: int
    root_logits: Tensor  # (Vd,) float32

    def expand(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Read nodes with target ids `tokens` (F,) below the rows `parents` (F,) -> logits (F, Vd) after each."""
        ...


class TreePolicy(Protocol):
    """Decides which nodes exist and by which law each was proposed."""

    def grow(
        self, proposer: Proposer, sampling: Sampling, max_depth: int, generator: torch.Generator | None = None
    ) -> DraftTree:
        """A tree no deeper than `max_depth` (0: the root alone)."""
        ...


@dataclass(frozen=True)
class EagleTree:
    """The dynamic deterministic tree of EAGLE-2 and EAGLE-3 (arXiv 2406.16858, sections 4.1 and 4.2).

    Every level expands the `top_k` candidates with the largest joint draft probability, each into its `top_k` most
    probable tokens; at the end the best `num_nodes - 1` candidates of all levels stay, re-ranked by the same measure.
    The draft law is taken at temperature 1 as published, unless `draft_temperature` says otherwise.
    """

    num_nodes: int = 10  # N, with the root
    depth: int = 5  # levels below the root
    top_k: int = 4  # children per node and nodes expanded per level
    draft_temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_at_least(num_nodes=(self.num_nodes, 1), depth=(self.depth, 0), top_k=(self.top_k, 1))
        if not self.draft_temperature > 0:
            raise ValueError(f"draft_temperature is {self.draft_temperature}, it must be larger than 0")

    def grow(
        self, proposer: Proposer, sampling: Sampling, max_depth: int, generator: torch.Generator | None = None
    ) -> DraftTree:
        depth = min(self.depth, max_depth) if self.num_nodes > 1 else 0
        levels = list(self._levels(proposer, depth))
        tokens, parents, scores = (torch.cat(parts) for parts in zip(*levels, strict=True)) if levels else _NO_CANDIDATES
        return rerank(proposer.root_token, tokens, parents, scores, self.num_nodes - 1)

    def _levels(self, proposer: Proposer, depth: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Level by level: tokens, parents (index among all candidates, -1 the root) and joint log probabilities."""
        parents = torch.full((1,), -1, device=proposer.root_logits.device)  # of the candidates: the expanded nodes
        scores = torch.zeros_like(parents, dtype=torch.float32)
        rows = torch.zeros_like(parents)  # the proposer's number of each expanded node
        log_laws = self._log_laws(proposer.root_logits[None])  # (1, Vd)
        num_candidates = num_rows = 0
        for level in range(depth):
            best = log_laws.topk(min(self.top_k, log_laws.shape[-1]))  # (F, top_k)
            tokens = proposer.vocabulary.target_ids[best.indices].flatten()
            joint = (scores[:, None] + best.values).flatten()
            yield tokens, parents.repeat_interleave(best.indices.shape[1]), joint
            if level == depth - 1:
                return
            chosen = joint.topk(min(self.top_k, joint.numel())).indices.sort().values  # (F,)
            logits = proposer.expand(tokens[chosen], rows[chosen // best.indices.shape[1]])  # (F, Vd)
            log_laws, scores, parents = self._log_laws(logits), joint[chosen], chosen + num_candidates
            rows = torch.arange(1, 1 + chosen.numel(), device=rows.device) + num_rows
            num_candidates, num_rows = num_candidates + joint.numel(), num_rows + chosen.numel()

    def _log_laws(self, logits: Tensor) -> Tensor:
        return (logits.float() / self.draft_temperature).log_softmax(-1)


_NO_CANDIDATES = (torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0))


def rerank(root_token: int, tokens: Tensor, parents: Tensor, scores: Tensor, budget: int) -> DraftTree:
    """The `budget` candidates with the largest joint probability, as a deterministic tree below the root.

    tokens, parents, scores (C,): parents index the candidates, -1 is the root, a parent stands before its children.
    A child's score never exceeds its parent's and ties go to the earlier one, so no node is kept without its parent.
    """
    kept = scores.sort(descending=True, stable=True).indices[:budget].sort().values  # (N - 1,)
    node_of = torch.full((tokens.numel() + 1,), 0, dtype=torch.int64, device=tokens.device)
    node_of[kept] = torch.arange(1, kept.numel() + 1, device=tokens.device)  # the last entry, index -1, is the root
    root = torch.tensor([root_token], device=tokens.device)
    no_parent = torch.full_like(root, -1)
    return DraftTree(torch.cat([no_parent, node_of[parents[kept]]]), torch.cat([root, tokens[kept]]))


@dataclass(frozen=True)
class SampledChain:
    """One chain, every token drawn from the draft law at the sampling temperature: verified by `hsd` it is block
    verification (arXiv 2403.10444), the best any verifier can do with a chain."""

    depth: int = 4

    def __post_init__(self) -> None:
        _check_at_least(depth=(self.depth, 0))

    def grow(
        self, proposer: Proposer, sampling: Sampling, max_depth: int, generator: torch.Generator | None = None
    ) -> DraftTree:
        logits, laws, tokens = proposer.root_logits, [], [proposer.root_token]
        for level in range(min(self.depth, max_depth)):
            if level:
                parent = torch.tensor([level - 1], device=logits.device)
                logits = proposer.expand(torch.tensor(tokens[-1:], device=logits.device), parent)[0]
            laws.append(proposer.vocabulary.scatter(sampling.law(logits)))  # (V,)
            tokens.append(draw(laws[-1], generator))
        return _chain_tree(tokens, laws, logits.device)


def _chain_tree(tokens: list[int], laws: list[Tensor], device: torch.device) -> DraftTree:
    parents = chain_parents(len(tokens), device)
    if not laws:
        return DraftTree(parents, torch.tensor(tokens, device=device))
    rows = torch.stack([*laws, torch.zeros_like(laws[-1])])  # (N, V), the leaf proposes nothing
    return DraftTree(parents, torch.tensor(tokens, device=device), sampled=parents >= 0, draft_probs=rows)


def _check_at_least(**limits: tuple[int, int]) -> None:
    for name, (value, least) in limits.items():
        if value < least:
            raise ValueError(f"{name} is {value}, it must be at least {least}")
