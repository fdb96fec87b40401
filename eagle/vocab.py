"""The map between the target's vocabulary and the smaller one the head predicts.

Letters: V target vocabulary, Vd draft vocabulary.
"""

from collections import ChainMap
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hsd_verify.transfer import send


@dataclass(frozen=True, eq=False)
class DraftVocabulary:
    """`d2t` and `t2d` as EAGLE-3 checkpoints store them.

    d2t (Vd,) int64 is an OFFSET: target id = draft id + d2t[draft id]. t2d (V,) bool marks the covered target ids.
    """

    d2t: Tensor  # (Vd,) int64
    t2d: Tensor  # (V,) bool

    @classmethod
    def from_target_ids(cls, target_ids: Tensor, vocab_size: int) -> "DraftVocabulary":
        """The map whose draft ids follow `target_ids` (Vd,), in any order.

        Raises ValueError for ids that repeat or leave the target's vocabulary.
        """
        if target_ids.numel() == 0 or target_ids.min() < 0 or target_ids.max() >= vocab_size:
            raise ValueError(f"draft vocabulary ids must lie in 0..{vocab_size - 1}: is this map for another target?")
        t2d = torch.zeros(vocab_size, dtype=torch.bool, device=target_ids.device)
        t2d[target_ids] = True
        if int(t2d.sum()) < target_ids.numel():
            raise ValueError("draft vocabulary ids must differ from each other: remove repetitions")
        return cls(target_ids - torch.arange(len(target_ids), device=target_ids.device), t2d)

    @classmethod
    def first(cls, draft_vocab_size: int, vocab_size: int) -> "DraftVocabulary":
        """The first Vd ids of the target: the identity when the sizes agree."""
        return cls.from_target_ids(torch.arange(draft_vocab_size), vocab_size)

    def check_sizes(self, draft_vocab_size: int, vocab_size: int) -> None:
        """Raises ValueError when the map has other sizes than the head's configuration."""
        found = (self.d2t.numel(), self.t2d.numel())
        if found != (draft_vocab_size, vocab_size):
            raise ValueError(
                f"the vocabulary map has (draft, target) sizes {found}, the head's config says "
                f"{(draft_vocab_size, vocab_size)}: use the map this head was trained with"
            )

    @cached_property
    def target_ids(self) -> Tensor:
        """Target id of every draft id: (Vd,) int64."""
        return self.d2t + torch.arange(self.d2t.numel(), device=self.d2t.device)

    @cached_property
    def draft_ids(self) -> Tensor:
        """Draft id of every target id, -1 where the draft vocabulary has none: (V,) int64."""
        ids = torch.full(self.t2d.shape, -1, dtype=torch.int64, device=self.d2t.device)
        return ids.index_copy(0, self.target_ids, torch.arange(self.d2t.numel(), device=self.d2t.device))

    @cached_property
    def on_host(self) -> MutableMapping[int, int]:
        """Target id -> draft id, of those that the draft vocabulary has, where the host looks single tokens up."""
        return {target: draft for draft, target in enumerate(self.target_ids.tolist())}

    def extended(self, foreign: list[int]) -> "DraftVocabulary":
        """With more target ids behind its own."""
        more = send(torch.tensor(foreign), self.d2t.device)
        target_ids = torch.cat([self.target_ids, more])  # (Vd + X,)
        places = torch.arange(len(target_ids), device=more.device)
        extended = DraftVocabulary(target_ids - places, self.t2d.index_fill(0, more, True))
        numbers = {target: draft for draft, target in enumerate(foreign, start=self.d2t.numel())}
        object.__setattr__(extended, "on_host", ChainMap(numbers, self.on_host))  # nothing is read back
        return extended

    def scatter(self, law: Tensor) -> Tensor:
        """A law over the draft vocabulary (..., Vd) -> the same law over the target's (..., V)."""
        return law.new_zeros(*law.shape[:-1], self.t2d.numel()).index_copy(-1, self.target_ids, law)
