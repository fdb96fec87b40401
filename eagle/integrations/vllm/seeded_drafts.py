"""Drafts of requests that came with a seed, drawn from it: else one seed gives another text each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hsd_verify.draw import draw_indices

DrawDrafts = Callable[..., tuple[Tensor, Tensor]]


def seeded_drafts(draw: DrawDrafts) -> DrawDrafts:
    """vLLM's `compute_probs_and_sample_next_token`, `draw`, whose tokens of seeded rows are drawn again with the seed.

    The laws are those of `draw`: a token drawn anew from the same law leaves both the law and losslessness as they are.
    A seeded row takes one number of its own generator. Rows that are not one a request (drafts of several places at
    once) stay as they came.
    """

    def draw_seeded(logits: Tensor, sampling: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        tokens, probs = draw(logits, sampling, *args, **kwargs)
        num_requests = len(sampling.frequency_penalties)  # the one field that always has an entry a request
        if sampling.all_greedy or not sampling.generators or len(tokens) != num_requests:
            return tokens, probs
        rows = torch.tensor(sorted(sampling.generators), device=tokens.device)
        numbers = [_number(sampling.generators[row], tokens.device) for row in rows.tolist()]
        drawn = draw_indices(probs[rows], torch.cat(numbers)).to(tokens.dtype)
        tokens[rows] = torch.where(sampling.temperature[rows] == 0, tokens[rows], drawn)
        return tokens, probs

    return draw_seeded


def _number(generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(1, dtype=torch.float64, device=device, generator=generator)
