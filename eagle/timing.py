"""Phases of a round are timed only when somebody asks; the default clock does nothing."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


class PhaseClock:
    """Seconds spent in each named phase. Waits for the accelerator at both ends, which slows the loop a little."""

    def __init__(self, device: torch.device):
        self.seconds: dict[str, float] = defaultdict(float)
        self._synchronize: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._synchronize()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._synchronize()
            self.seconds[phase] += time.perf_counter() - start


def no_clock(_phase: str) -> AbstractContextManager[None]:
    """The default: no measurement, no synchronisation."""
    return nullcontext()
