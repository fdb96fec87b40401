"""What drafting asks of a head: passes that can be answered for one sequence, or for many in one.

Letters: A entries of one pass, M entries of all rows, H draft hidden size, Vd draft vocabulary, T entries of a row
before the pass, d head size.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eagle.coroutines import Request
from eagle.drafters.reader import HeadReader, NewEntries


@dataclass(frozen=True, eq=False)
class HeadRead(Request):
    """New entries of one sequence, answered with their states (A, H): the arguments of `HeadReader.read`."""

    reader: HeadReader
    hidden: Tensor  # (A, H)
    tokens: Tensor  # (A,)
    positions: Tensor  # (A,)
    mask: Tensor | None  # (1, 1, A, T + A)

    rank: ClassVar[int] = 1

    @torch.inference_mode()
    def alone(self) -> Tensor:
        return self.reader.read(self.hidden, self.tokens, self.positions, self.mask)

    @property
    def partners(self) -> Hashable:
        """Those of one head that read the same embeddings."""
        return self.reader.head, self.reader.embed

    @classmethod
    @torch.inference_mode()
    def together(cls, asked: Sequence["HeadRead"]) -> Sequence[Tensor]:
        """All entries side by side as one run, but for attention, which is row by row as it is alone."""
        head, embed = asked[0].reader.head, asked[0].reader.embed
        sizes = [len(row.tokens) for row in asked]
        embedding = embed(torch.cat([row.tokens for row in asked])).to(asked[0].hidden.dtype)  # (M, H)
        small = [row.reader.small_read(row.hidden) for row in asked]
        if small[0] is not None and None not in small and small[0].shares_passes:  # of one head
            parts = zip(asked, embedding.split(sizes), strict=True)
            return small[0].read(
                [NewEntries(row.hidden, own, row.positions, row.mask, row.reader.cache) for row, own in parts]
            )

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            parts = zip(asked, *(states.split(sizes, dim=2) for states in (query, key, value)), strict=True)
            return torch.cat([row.reader.attend(*own, row.mask) for row, *own in parts], dim=2)

        hidden, positions = torch.cat([row.hidden for row in asked]), torch.cat([row.positions for row in asked])
        output: Tensor = head(hidden[None], embedding[None], positions[None], attend)  # (1, M, H)
        return output[0].split(sizes)


@dataclass(frozen=True, eq=False)
class HeadLogits(Request):
    """States (A, H), answered with their logits (A, Vd) in float32."""

    reader: HeadReader
    hidden: Tensor  # (A, H)

    rank: ClassVar[int] = 2

    @torch.inference_mode()
    def alone(self) -> Tensor:
        return self.reader.logits(self.hidden)

    @property
    def partners(self) -> Hashable:
        """Those of one head."""
        return self.reader.head

    @classmethod
    @torch.inference_mode()
    def together(cls, asked: Sequence["HeadLogits"]) -> Sequence[Tensor]:
        rows, head = [row.hidden for row in asked], asked[0].reader.head
        small = head.small_read
        if small is not None and small.shares_passes and all(map(small.takes, rows)):
            return small.logits(rows)
        return asked[0].reader.logits(torch.cat(rows)).split([len(row) for row in rows])
