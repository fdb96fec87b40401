"""Weights in 4 and 8 bits: numbers, a scale and an offset for every 32 inputs of an output (ggml's Q4_1 and Q8_0).

    w = scale * q + low     4 bits: q = 0 .. 15, low the smallest weight of the block
                            8 bits: q = 1 .. 255, low = -128 * scale

A block that was stored so before gets its very numbers back: the packaged default is Q4_1 with a Q8_0 embedding.

Letters: N outputs, K inputs, B = K / 32 blocks, T = N / 16 tiles.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK, TILE, GROUP = 32, 16, 4
BITS = (4, 8)


@dataclass(frozen=True)
class LowBitWeight:
    """Laid out for the kernel: the 16 outputs of a tile beside each other."""

    numbers: Tensor  # (T, B, 64 * bits) uint8
    scales: Tensor  # (T, B, 16) float16
    lows: Tensor  # (T, B, 16) float16

    @property
    def bits(self) -> int:
        return self.numbers.shape[-1] * 8 // (BLOCK * TILE)

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in (self.numbers, self.scales, self.lows))


def can_be_stored(num_outputs: int, num_inputs: int) -> bool:
    """Whether a weight of this shape is whole tiles and blocks."""
    return num_outputs % TILE == 0 and num_inputs % BLOCK == 0


def quantise(weight: Tensor, bits: int) -> LowBitWeight:
    """A weight (N, K) of whole tiles and blocks."""
    blocks = weight.detach().float().unflatten(-1, (-1, BLOCK))  # (N, B, 32)
    if bits == 4:
        low = blocks.amin(-1)
        scale = ((blocks.amax(-1) - low) / 15).half().float()
        low = low.half().float()
    else:
        scale = (blocks.abs().amax(-1) / 127).half().float()
        low = -128 * scale
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    numbers = ((blocks - low[..., None]) * inverse[..., None]).round().clamp(0, 2**bits - 1).to(torch.uint8)
    return LowBitWeight(_tiled(numbers, bits), _by_tile(scale).half(), _by_tile(low).half())


def dequantise(stored: LowBitWeight) -> Tensor:
    """The weight (N, K) that it stands for, in float32."""
    tiles, blocks, _ = stored.numbers.shape
    both = stored.numbers
    if stored.bits == 4:
        both = torch.cat([both & 15, both >> 4], dim=-1)
    numbers = both.view(tiles, blocks, BLOCK // GROUP, TILE, GROUP).permute(0, 3, 1, 2, 4).reshape(-1, blocks, BLOCK)
    scale, low = (_by_output(part.float()) for part in (stored.scales, stored.lows))  # (N, B)
    return (numbers * scale[..., None] + low[..., None]).flatten(1)


def _tiled(numbers: Tensor, bits: int) -> Tensor:
    """(N, B, 32) -> (T, B, 8 groups of 4 inputs x 16 outputs x 4); in 4 bits groups g and g + 4 share a byte."""
    shape = (-1, TILE, numbers.shape[1], BLOCK // GROUP, GROUP)
    flat = numbers.view(shape).permute(0, 2, 3, 1, 4).flatten(2)  # (T, B, 512)
    if bits == 4:
        first, second = flat.chunk(2, dim=-1)
        flat = first | (second << 4)
    return flat.contiguous()


def _by_tile(values: Tensor) -> Tensor:
    """(N, B) -> (T, B, 16)"""
    return values.unflatten(0, (-1, TILE)).transpose(1, 2).contiguous()


def _by_output(values: Tensor) -> Tensor:
    """(T, B, 16) -> (N, B)"""
    return values.transpose(1, 2).flatten(0, 1)
