"""Linear layers with their weights in the order in which a CPU's bf16 kernels read them.

torch hands oneDNN a weight as it is stored, and the kernel rearranges it at every call. For a prompt that does not
show; for the handful of rows of a decoding step or a tree it takes as long as the product itself. `pack` rearranges
each weight once. Modules, parameters and state dicts stay what they were: only the modules' `forward` is replaced, and
`stock` takes the original ones back for a while.

SmolLM2-135M, two Zen 4 cores, a whole pass over 1 / 8 / 16 / 32 tree nodes behind 256 tokens: 38.7 / 41.8 / 48.6 / 62.3
ms stock, 33.5 / 35.1 / 40.2 / 54.7 ms packed; a draft step 2.5 ms stock, 1.9 ms packed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn

MAX_ROWS = 128  # beyond, rearranging is a small part of the product, and prompts must not depend on a private kernel
MAX_BYTES = 4 * 2**30  # packed weights are a second copy: larger models are left alone
EXPECTED_ROWS = 16


def pack(model: nn.Module) -> int:
    """Pack the bf16 linear layers of `model` that lie on a CPU; returns how many there were.

    None are where torch has no such kernel, or where a second copy of the weights would take more than MAX_BYTES.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear and _can_be_packed(module.weight)]
    if not is_available() or sum(layer.weight.nbytes for layer in layers) > MAX_BYTES:
        return 0
    for layer in layers:
        layer.forward = _Packed(layer)  # type: ignore[method-assign, assignment]
    return len(layers)


def is_available() -> bool:
    """Whether this torch has oneDNN's packed product and this CPU multiplies bf16 with it."""
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def stock(model: nn.Module) -> Iterator[None]:
    """`model` with its original forwards: what users have who never packed it."""
    packed = {module: module.forward for module in model.modules() if isinstance(module.forward, _Packed)}
    for module in packed:
        del module.forward
    try:
        yield
    finally:
        for module, forward in packed.items():
            module.forward = forward  # type: ignore[method-assign]


def _can_be_packed(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and not weight.is_inference()


class _Packed:
    """The forward of a linear layer, (.., in) -> (.., out); the layer's own where it trains, moved or changed."""

    def __init__(self, layer: nn.Linear):
        self._layer = layer
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), EXPECTED_ROWS)
        self._packed_from = _identity(layer.weight)

    def __call__(self, x: Tensor) -> Tensor:
        layer = self._layer
        is_small = x.numel() <= MAX_ROWS * layer.in_features and x.dtype == torch.bfloat16
        if not is_small or torch.is_grad_enabled() or _identity(layer.weight) != self._packed_from:
            return nn.functional.linear(x, layer.weight, layer.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, layer.bias, "none", [], "")

    def __reduce__(self):  # copies and pickles of the layer: packed weights can be neither, and are left behind
        return MethodType, (nn.Linear.forward, self._layer)


def _identity(weight: Tensor) -> tuple[int, int, torch.dtype]:
    """Changes when a parameter is moved, cast or written to."""
    return weight.data_ptr(), weight._version, weight.dtype
