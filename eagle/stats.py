"""What decoding achieved, counted from its steps."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from eagle.decode import Step


@dataclass
class DecodeStats:
    """Counts over rounds. The prefill and the token it emits are not part of tau, block efficiency and tokens_per_s."""

    rounds: int = 0
    num_accepted: int = 0  # drafted tokens that were emitted
    num_tokens: int = 0  # emitted by rounds
    prefill_s: float = 0.0  # until the first token
    decode_s: float = 0.0  # after it

    @property
    def tau(self) -> float:
        """Accepted draft tokens per round, without the bonus token."""
        return self.num_accepted / max(self.rounds, 1)

    @property
    def block_efficiency(self) -> float:
        """Tokens per target pass."""
        return self.num_tokens / max(self.rounds, 1)

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.decode_s if self.decode_s else 0.0

    def watch(self, steps: Iterable[Step]) -> Iterator[Step]:
        """Pass the steps of one decode through, counting and timing them. The consumer's own time is not counted."""
        first, steps = True, iter(steps)
        while True:
            start = time.perf_counter()
            step = next(steps, None)
            elapsed_s = time.perf_counter() - start
            if step is None:
                return
            if first:
                self.prefill_s += elapsed_s
            else:
                self._count(step, elapsed_s)
            first = False
            yield step

    def _count(self, step: Step, elapsed_s: float) -> None:
        self.decode_s += elapsed_s
        self.rounds += bool(step.tokens)
        self.num_accepted += step.num_accepted
        self.num_tokens += len(step.tokens)
