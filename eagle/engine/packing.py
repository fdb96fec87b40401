"""Linear layers with their weights in the order in which a CPU's bf16 kernels read them.

torch hands oneDNN a weight as it is stored, and the kernel rearranges it at every call. For a prompt that does not
show; for the handful of rows of a decoding step or a tree it takes as long as the product itself. `pack` rearranges
each weight once, and puts the weights of layers that read one input (queries, keys and values; gate and up) behind each
other: fewer, larger products, of which the first layer called computes all. Modules, parameters and state dicts stay
what they were: only the modules' `forward` is replaced, and `stock` takes the original ones back for a while.

SmolLM2-135M, two Zen 4 cores, a whole pass over 1 / 8 / 16 / 32 tree nodes behind 256 tokens: 38.7 / 41.8 / 48.6 / 62.3
ms stock, 33.5 / 35.1 / 40.2 / 54.7 ms packed layer by layer; a draft step 2.5 ms stock, 1.9 ms packed.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

MAX_ROWS = 128  # beyond, rearranging is a small part of the product, and prompts must not depend on a private kernel
MAX_BYTES = 4 * 2**30  # packed weights are a second copy: larger models are left alone
EXPECTED_ROWS = 16
ONE_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # as transformers' models name such layers


def pack(model: nn.Module) -> int:
    """Pack the bf16 linear layers of `model` that lie on a CPU; returns how many there were.

    None are where torch has no such kernel, or where a second copy of the weights would take more than MAX_BYTES.
    """
    groups = [group for module in model.modules() for group in _groups(module)]
    layers = [layer for group in groups for layer in group]
    if not is_available() or sum(layer.weight.nbytes for layer in layers) > MAX_BYTES:
        return 0
    for group in groups:
        product = _Product(group)
        for place, layer in enumerate(group):
            layer.forward = _Packed(product, place)  # type: ignore[method-assign, assignment]
    return len(layers)


def is_available() -> bool:
    """Whether this torch has oneDNN's packed product and this CPU multiplies bf16 with it."""
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def stock(model: nn.Module) -> Iterator[None]:
    """`model` with its original forwards: what users have who never packed it."""
    packed = unpack(model)
    try:
        yield
    finally:
        for module, forward in packed.items():
            module.forward = forward


def unpack(model: nn.Module) -> dict[nn.Module, Any]:
    """Give `model` its original forwards back; returns the others."""
    packed = {module: module.forward for module in model.modules() if isinstance(module.forward, _Packed)}
    for module in packed:
        del module.forward
    return packed


def _groups(module: nn.Module) -> Iterator[list[nn.Linear]]:
    """The linear layers that `module` itself holds, those of one input together."""
    layers: dict[str, nn.Linear] = {
        name: child  # type: ignore[misc]
        for name, child in module.named_children()
        if _can_be_packed(child)
    }
    for names in ONE_INPUT:
        group = [layers[name] for name in names if name in layers]
        if len(group) == len(names) and len({(layer.in_features, layer.bias is None) for layer in group}) == 1:
            layers = {name: layer for name, layer in layers.items() if name not in names}
            yield group
    yield from ([layer] for layer in layers.values())


def _can_be_packed(module: nn.Module) -> bool:
    if type(module) is not nn.Linear:
        return False
    weight = module.weight
    if type(weight) is not nn.Parameter:  # torchao and others keep another kind of tensor in a stock layer
        return False
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and not weight.is_inference()


class _Product:
    """The product of one input with the weights of some layers, which all have a bias or none."""

    def __init__(self, layers: Sequence[nn.Linear]):
        self.layers = layers
        weight = torch.cat([layer.weight.detach() for layer in layers])  # (sum of out, in)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, EXPECTED_ROWS)
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self._bias = torch.cat(biases) if biases else None
        self._sizes = [layer.out_features for layer in layers]
        self._packed_from = [_identity(layer) for layer in layers]
        self._own = threading.local()  # of each thread: an input, and its outputs not yet taken

    def ready(self, place: int, x: Tensor) -> Tensor | None:
        """What layer `place` makes of x (.., in), if the layers before it were given the very same tensor.

        Nobody may write to x in between. Each output is handed out once, and threads cannot see each other's.
        """
        last: tuple[Tensor, list[Tensor | None]] | None = getattr(self._own, "last", None)
        if last is None or last[0] is not x:
            return None
        output, last[1][place] = last[1][place], None
        if all(other is None for other in last[1]):
            self._own.last = None
        return output

    def applies(self, x: Tensor) -> bool:
        is_small = x.numel() <= MAX_ROWS * self.layers[0].in_features and x.dtype == torch.bfloat16
        if not is_small or torch.is_grad_enabled():
            return False
        return all(_identity(layer) == was for layer, was in zip(self.layers, self._packed_from, strict=True))

    def compute(self, place: int, x: Tensor) -> Tensor:
        """What layer `place` makes of x (.., in): (.., out). The other layers will find theirs `ready`."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        if len(self.layers) == 1:
            return product
        outputs: list[Tensor | None] = list(torch.split(product, self._sizes, dim=-1))
        output, outputs[place] = outputs[place], None
        self._own.last = x, outputs
        assert output is not None
        return output


class _Packed:
    """The forward of a linear layer, (.., in) -> (.., out); the layer's own where it trains, moved or changed."""

    def __init__(self, product: _Product, place: int):
        self._product, self._place = product, place

    def __call__(self, x: Tensor) -> Tensor:
        ready = self._product.ready(self._place, x)
        if ready is not None:
            return ready
        if self._product.applies(x):
            return self._product.compute(self._place, x)
        layer = self._product.layers[self._place]
        return nn.functional.linear(x, layer.weight, layer.bias)

    def __reduce__(self) -> tuple[type[MethodType], tuple[Any, nn.Linear]]:
        # copies and pickles of the layer: packed weights can be neither, and are left behind
        return MethodType, (nn.Linear.forward, self._product.layers[self._place])


def _identity(layer: nn.Linear) -> tuple[object, ...]:
    """Changes when a parameter is moved, cast or written to."""
    weight, bias = layer.weight, layer.bias
    own = weight.data_ptr(), weight._version, weight.dtype
    return own if bias is None else (*own, bias.data_ptr(), bias._version, bias.dtype)
