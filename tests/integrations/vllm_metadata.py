"""What vLLM hands to its rejection step, made by hand: no engine is needed to test what is decided from it.

Letters: B requests, M drafted tokens of all of them, V vocabulary.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from hsd_verify import DraftTree

VOCAB = 11


@dataclass
class Batch:
    """Drafts of B requests; every third is greedy where `temperatures` are not given."""

    num_drafted: list[int]
    temperatures: list[float]
    draft_tokens: Tensor = field(init=False)  # (M,) int32
    draft_probs: Tensor | None = field(init=False)  # (M, V)
    logits: Tensor = field(init=False)  # (M, V) behind temperature, top-k and top-p
    bonus: Tensor = field(init=False)  # (B, 1) int32
    seed: int = 0
    placed: bool = False  # no laws of drafts
    generators: dict[int, torch.Generator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator, num_tokens = torch.Generator().manual_seed(self.seed), sum(self.num_drafted)
        self.logits = 2 * torch.randn(num_tokens, VOCAB, generator=generator, dtype=torch.float64)
        noise = torch.randn(num_tokens, VOCAB, generator=generator, dtype=torch.float64)
        probs = (self.logits + noise).softmax(-1)
        self.draft_tokens = torch.zeros(0, dtype=torch.int32)
        if num_tokens:
            self.draft_tokens = torch.multinomial(probs, 1, generator=generator)[:, 0].int()
        self.draft_probs = None if self.placed else probs
        self.bonus = torch.randint(VOCAB, (len(self.num_drafted), 1), generator=generator).int()

    @property
    def sampling(self) -> Any:
        greedy = [temperature == 0 for temperature in self.temperatures]
        return SimpleNamespace(
            all_greedy=all(greedy),
            all_random=not any(greedy),
            temperature=None if all(greedy) else torch.tensor(self.temperatures),
            generators=self.generators,
            frequency_penalties=torch.zeros(len(greedy)),
        )

    @property
    def ends(self) -> Tensor:
        return torch.tensor(self.num_drafted).cumsum(0).int()

    def arguments(self) -> tuple[Any, ...]:
        """In the order of vLLM's `rejection_sample`."""
        longest = max(self.num_drafted)
        given = (self.draft_tokens, self.num_drafted, longest, self.ends, self.draft_probs, self.logits)
        return (*given, self.bonus, self.sampling)

    def rows(self, b: int) -> slice:
        start = sum(self.num_drafted[:b])
        return slice(start, start + self.num_drafted[b])

    def tree(self, b: int) -> tuple[DraftTree, Tensor]:
        """Request b's draft as a tree, and target laws (N, V) whose last row is the bonus token's point mass."""
        rows, length = self.rows(b), self.num_drafted[b]
        nothing = torch.zeros(1, VOCAB, dtype=torch.float64)
        laws = None if self.draft_probs is None else torch.cat([self.draft_probs[rows], nothing])
        tree = DraftTree(
            torch.arange(-1, length),
            torch.cat([torch.zeros(1, dtype=torch.int64), self.draft_tokens[rows].long()]),
            torch.tensor([False] + [laws is not None] * length),
            laws,
        )
        bonus = torch.eye(VOCAB, dtype=torch.float64)[int(self.bonus[b])]
        return tree, torch.cat([self.logits[rows].softmax(-1), bonus[None]])
