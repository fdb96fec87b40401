"""Asking once a round whether numbers are still finite, without waiting for an accelerator.

A row of NaN has no largest entry: greedy decoding would repeat token 0 for ever, and sampling would draw from no law.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class FiniteWatch:
    """Looks at rows as they come. On a CPU at once; on an accelerator when the next rows come, whose round has waited
    for these anyway, or at `settle`."""

    def __init__(self, explain: Callable[[], str], waits: bool | None = None):
        """waits: ask at once; None: on a CPU only."""
        self._explain, self._waits = explain, waits
        self._seen: Tensor | None = None  # (), finite if the rows are

    def look(self, rows: Tensor) -> None:
        """Raises ValueError with what `explain` says unless the largest entry of each row (n, K) is a finite number."""
        self.settle()
        self._seen = rows.amax(-1).sum(dtype=torch.float32)
        if rows.is_cpu if self._waits is None else self._waits:
            self.settle()

    def settle(self) -> None:
        """Raises ValueError for the rows last looked at."""
        seen, self._seen = self._seen, None
        if seen is not None and not bool(seen.isfinite()):
            raise ValueError(self._explain())
