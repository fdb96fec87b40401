"""Linear layers with low-bit weights in place of a model's own: a target of its own, in a third of the memory.

Inputs are rounded to 8 bits in every block of 32, each row by itself, and sums are made in one order: what a layer
makes of a row does not depend on the rows beside it. Attention is of the same kind (`eagle.engine.lowbit.by_rows`),
so that a tree's nodes get bit for bit what plain decoding gets: rounding would make any difference a large one.

Letters: M rows, N outputs, K inputs.
"""

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn

from eagle.engine.lowbit.by_rows import attend_by_rows
from eagle.engine.lowbit.storage import LowBitWeight, can_be_stored, dequantise, quantise
from eagle.kernels.compiler import kernels

OUTPUT_BITS = 8  # of the output layer, as the packaged default has it: four bits there cost most


class LowBitLinear(nn.Module):
    """x (.., K) -> (.., N) in x's dtype."""

    numbers: Tensor
    scales: Tensor  # float16 in integers' clothes, as `lows`: a cast of the model must not touch them
    lows: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear, bits: int):
        super().__init__()
        self.in_features, self.out_features, self.bits = layer.in_features, layer.out_features, bits
        self._kernel = kernels().low_bit_linear
        stored = quantise(layer.weight, bits)
        self.register_buffer("numbers", stored.numbers)
        self.register_buffer("scales", stored.scales.view(torch.int16))
        self.register_buffer("lows", stored.lows.view(torch.int16))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    @property
    def stored(self) -> LowBitWeight:
        return LowBitWeight(self.numbers, self.scales.view(torch.float16), self.lows.view(torch.float16))

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = self._kernel(x, self.numbers, self.scales, self.lows, self.bias)
        return product

    def dequantised(self) -> nn.Linear:
        """The layer that it stands for, with inputs as they are."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        layer.weight.data = dequantise(self.stored)
        if self.bias is not None:
            layer.bias.data = self.bias.float()
        return layer

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"


def shrink(model: nn.Module, bits: int) -> int:
    """Put low-bit layers in place of a CPU model's linear ones; returns how many. The output layer keeps 8 bits.

    Layers of other shapes than whole tiles and blocks stay, and so do embeddings. Raises ValueError for bits that are
    neither 4 nor 8, for a model on an accelerator, and where the kernel cannot be built.
    """
    output = cast(Any, model).get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    number = shrink_layers(model, bits, output)
    if number:
        attend_by_rows(model)
        cast(Any, model).is_quantized = True  # what transformers calls it, and `eagle.engine.suitability` asks for
    return number


def shrink_layers(
    model: nn.Module, bits: int, output: nn.Module | None = None, kept: Collection[nn.Module] = ()
) -> int:
    """The same for the layers alone, whatever lies around them: `output` gets 8 bits, those to be `kept` stay."""
    kernels()
    found = [(owner, name, layer) for owner in model.modules() for name, layer in owner.named_children()]
    number = 0
    for owner, name, layer in found:
        if layer not in kept and type(layer) is nn.Linear and can_be_stored(layer.out_features, layer.in_features):
            if layer.weight.device.type != "cpu":
                raise ValueError(f"low-bit layers of our own are for CPUs, the model is on {layer.weight.device}")
            setattr(owner, name, LowBitLinear(layer, OUTPUT_BITS if layer is output else bits))
            number += 1
    return number
