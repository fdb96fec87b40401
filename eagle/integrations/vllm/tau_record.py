"""What was accepted, and what each rule was to be expected to accept on the very same rounds.

Expected tau comes from laws and holds no sampling noise. Two rules are compared on the drafts of one run: it need not
be decoded twice. Greedy requests are left out: there all rules agree.

Letters: B requests, K drafted tokens of the longest draft.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor

RULES = ("tokenwise", "hsd")
WRITE_EVERY = 64  # rounds of the engine between two looks at the device


class TauRecord:
    """Sums over rounds, on the device; every process writes its own file `tau-PID.json`."""

    def __init__(self, directory: Path, verifier: str) -> None:
        self.path, self.verifier = directory / f"tau-{os.getpid()}.json", verifier
        self._sums: Tensor | None = None  # (3 + 2 * rules,): rounds, drafted, accepted; mean and variance of each rule
        self._unwritten = 0

    def add(self, counted: Tensor, drafted: Tensor, accepted: Tensor, stops: dict[str, Tensor]) -> None:
        """One round of each request that is `counted` (B,); drafted, accepted (B,); stops: (B, K + 1) by rule."""
        columns = [torch.ones_like(accepted), drafted, accepted]
        for rule in RULES:
            columns += _moments(stops[rule])
        kept = torch.stack([column.double() for column in columns]) * (counted & (drafted > 0))  # (3 + .., B)
        self._sums = kept.sum(1) if self._sums is None else self._sums + kept.sum(1)
        self._unwritten += 1
        if self._unwritten == WRITE_EVERY:
            self.write()

    def write(self) -> None:
        """Replace the file; nothing is written before the first round."""
        if self._sums is None:
            return
        self._unwritten = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.summary(), indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.path)

    def summary(self) -> dict[str, object]:
        """tau that was seen and that each rule expects, a round; `standard_error` of what is seen under each rule."""
        sums = [0.0] * 7 if self._sums is None else self._sums.tolist()
        rounds, drafted, accepted = sums[:3]
        count = max(rounds, 1.0)
        means, variances = (dict(zip(RULES, sums[start::2], strict=True)) for start in (3, 4))
        return {
            "verifier": self.verifier,
            "rounds": int(rounds),
            "drafted": int(drafted),
            "tau": accepted / count,
            "expected_tau": {rule: mean / count for rule, mean in means.items()},
            "standard_error": {rule: variance**0.5 / count for rule, variance in variances.items()},
        }


def _moments(stop: Tensor) -> list[Tensor]:
    """Mean and variance (B,) of the number accepted, from its law (B, K + 1)."""
    depth = torch.arange(stop.shape[1], dtype=stop.dtype, device=stop.device)
    mean = stop @ depth
    return [mean, stop @ depth**2 - mean**2]
