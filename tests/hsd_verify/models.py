"""Small target and draft models for exact enumeration: a law of the next token for every text, fixed by a seed.

Letters: V vocabulary.
"""

from __future__ import annotations

import zlib
from functools import cache

import torch
from torch import Tensor

from hsd_verify.exact.processes import Model, Text

DTYPE = torch.float64


def random_model(vocab: int, seed: int, concentration: float = 1.0) -> Model:
    """An unrelated random law for every text; a small `concentration` makes peaked ones."""

    @cache
    def law(text: Text) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(repr((seed, text)).encode()))
        weights = torch.rand(vocab, generator=generator, dtype=DTYPE).log().neg() ** (1 / concentration)  # (V,)
        return weights / weights.sum()

    return law


def fixed_model(*probs: float) -> Model:
    """The same law after every text."""
    weights = torch.tensor(probs, dtype=DTYPE)  # (V,)
    return lambda text: weights / weights.sum()


def warped_model(model: Model, warp) -> Model:
    return lambda text: warp(model(text))
