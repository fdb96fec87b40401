"""A drafter without a model: what followed the longest match of the text's end, earlier in prompt or answer.

Answers that repeat their prompt (summaries, corrected code, quotations) are drafted for nothing. The chain is placed:
it depends on the text alone, so any lossless verdict takes it (prompt lookup; n-gram drafting in vLLM and others).

Letters: n tokens of a match.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from eagle.chance import Chance
from eagle.drafters.protocol import check_truncation
from eagle.judging import COUPLED
from eagle.trees.protocols import check_counts
from hsd_verify import DraftTree


class Match(NamedTuple):
    """An earlier occurrence of the text's end."""

    begin: int  # of what followed it
    length: int  # tokens that are the same
    token: int  # that followed it


class LookupDrafter:
    """Proposes up to `length` tokens behind the latest earlier occurrence of the last `most` to `least` tokens.

    Where the occurrence reaches into the end of the text, the text repeats itself, and so does the proposal.
    Raises ValueError for lengths below 1 and for `least` above `most`.
    """

    def __init__(self, length: int = 8, most: int = 4, least: int = 2, device: torch.device | str = "cpu"):
        check_counts(length=(length, 1), most=(most, 1), least=(least, 1))
        if least > most:
            raise ValueError(
                f"least is {least}, it must be at most {most} (most): a match has from least to most tokens"
            )
        self.length, self.most, self.least, self.device = length, most, least, torch.device(device)
        self.text: list[int] = []  # known tokens
        self._ends: dict[tuple[int, ...], tuple[int, int]] = {}  # n-gram -> where its last two occurrences end

    @property
    def verifier(self) -> str:
        """Its chains are placed."""
        return COUPLED

    @property
    def num_known(self) -> int:
        return len(self.text)

    def observe(self, tokens: Tensor, features: Tensor | None = None) -> None:
        """See `Drafter.observe`. Has no use for features."""
        for token in tokens.tolist():
            self.add(token)

    def add(self, token: int) -> None:
        """The same for one token."""
        self.text.append(token)
        end = len(self.text)
        for n in range(self.least, min(self.most, end) + 1):
            match = tuple(self.text[-n:])
            self._ends[match] = self._ends.get(match, (0, 0))[1], end

    def truncate(self, num_tokens: int) -> None:
        check_truncation(num_tokens, self.num_known)
        kept, self.text, self._ends = self.text[:num_tokens], [], {}
        self.observe(torch.tensor(kept, dtype=torch.int64))

    def propose(self, chance: Chance, max_depth: int) -> DraftTree:
        """See `Drafter.propose`. Raises ValueError before the first `observe`."""
        if not self.text:
            raise ValueError("nothing observed yet: call observe(tokens) with the prompt first")
        tokens = [self.text[-1], *self.continuation(min(self.length, max_depth))]
        return DraftTree(torch.arange(-1, len(tokens) - 1), torch.tensor(tokens), device=self.device)

    def continuation(self, length: int) -> list[int]:
        """Up to `length` tokens that may follow the text; none where its end was never seen before."""
        found = self.match()
        if found is None:
            return []
        num_known, text = self.num_known, list(self.text)
        for place in range(found.begin, found.begin + length):
            text.append(text[place])
        return text[num_known:]

    def match(self, longest: int = 0) -> "Match | None":
        """Where the end of the text stood before; tokens that match are counted beyond `most`, up to `longest`."""
        text = self.text
        for n in range(min(self.most, len(text)), self.least - 1, -1):
            begin, _ = self._ends.get(tuple(text[-n:]), (0, 0))
            if begin:
                while n < min(longest, begin) and text[begin - n - 1] == text[-n - 1]:
                    n += 1
                return Match(begin, n, text[begin])
        return None
