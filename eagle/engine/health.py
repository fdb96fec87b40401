"""Asking whether the numbers of all rounds are finite, without making an accelerator be waited for at every round.

A row of NaN has no largest entry: greedy decoding would repeat token 0 for ever, and sampling would draw from no law.
"""

from collections.abc import Callable

import torch
from torch import Tensor

PATIENCE = 64  # looks at an accelerator's rows before it is asked: numbers that are not finite stay so in a sum


class FiniteWatch:
    """Looks at rows as they come. On a CPU at once; on an accelerator every `PATIENCE` looks, or at `settle`."""

    def __init__(self, explain: Callable[[], str], waits: bool | None = None):
        """waits: ask at once; None: on a CPU only."""
        self._explain, self._waits = explain, waits
        self._seen: Tensor | None = None  # (), finite if the rows looked at since the last answer are
        self._looks = 0  # at those rows

    def look(self, rows: Tensor) -> None:
        """Raises ValueError with what `explain` says unless the largest entry of each row (n, K) is a finite number."""
        largest = rows.amax(-1).sum(dtype=torch.float32)
        self._seen = largest if self._seen is None else self._seen + largest
        self._looks += 1
        at_once = rows.is_cpu if self._waits is None else self._waits
        if at_once or self._looks == PATIENCE:
            self.settle()

    def settle(self) -> None:
        """Raises ValueError for the rows looked at that nobody asked for yet."""
        seen, self._seen, self._looks = self._seen, None, 0
        if seen is not None and not bool(seen.isfinite()):
            raise ValueError(self._explain())
