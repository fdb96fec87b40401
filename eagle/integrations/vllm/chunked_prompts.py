"""Seeds of requests whose prompt is read in several pieces: a token drawn behind a piece is thrown away, and so is not
drawn by the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

SampleTokens = Callable[..., Any]


def keeping_seeds(sample_tokens: SampleTokens) -> SampleTokens:
    """vLLM's `GPUModelRunner.sample_tokens`, in which requests whose tokens are discarded have no generator.

    vLLM winds such a generator back by what its own sampler takes. On a CPU there is nothing to wind, and the engine
    ends with "CPU Generator does not use offset"; anywhere our verdicts and drafts take another number of draws.
    """

    @wraps(sample_tokens)
    def keeping(runner: Any, *args: Any, **kwargs: Any) -> Any:
        batch = runner.input_batch
        discarded = runner.discard_request_mask.np[: batch.num_reqs].nonzero()[0].tolist()
        kept = {row: batch.generators.pop(row) for row in discarded if row in batch.generators}
        try:
            return sample_tokens(runner, *args, **kwargs)
        finally:
            batch.generators.update(kept)

    return keeping
