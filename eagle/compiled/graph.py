"""A pass over a tree as one graph, traced from the stock modules: cache, masks and products with weights are ours.

Letters: N tree nodes including the root, C capacity of the cache, L layers, H hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import sdpa_mask

from eagle.compiled.sight import LEAST
from eagle.engine.layers import inputs_of, turn_of
from eagle.engine.lowbit.by_rows import OTHER_TERMS
from eagle.engine.packing import stock
from eagle.kernels.compiler import kernels

NAME = "eagle_compiled"
MOST_NODES = 64  # of a compiled pass: beyond, oneDNN's products of many rows are faster
EXAMPLE_NODES = 5
DTYPES = (torch.bfloat16, torch.float32)  # that the kernels know


class TracedLayer(CacheLayerMixin):
    """One layer's buffers (1, kv_heads, C, d) while a graph is traced: new entries go behind the filled ones."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, sight: Tensor):
        super().__init__()
        self.keys, self.values, self._buffers, self._sight = keys, values, (keys, values), sight
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        kernels().append_(*self._buffers, key_states, value_states, self._sight)
        return self._buffers

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        raise AssertionError("made with its buffers")

    def get_seq_length(self, *args: Any) -> int:
        return 0

    def get_mask_sizes(self, query_length: Tensor | int, *args: Any) -> tuple[int, int]:
        return int(query_length), 0

    def get_max_cache_shape(self) -> int:
        return -1

    def get_max_length(self) -> int:
        return -1


class TreePass(nn.Module):
    """tokens, positions (N,), a sight for a kind of layer, keys and values -> logits (N, V), L layers' inputs (N, H).

    Which inputs are features is chosen afterwards: a head that reads others needs no other graph.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[nn.Module], cache_argument: str, kinds: Sequence[str]):
        super().__init__()
        self.model = model
        self._layers, self._cache_argument, self._kinds = list(layers), cache_argument, kinds

    def forward(
        self, tokens: Tensor, positions: Tensor, sights: list[Tensor], keys: list[Tensor], values: list[Tensor]
    ) -> list[Tensor]:
        pairs = zip(keys, values, strict=True)
        cache = Cache(layers=[TracedLayer(key, value, sights[0]) for key, value in pairs])
        mask = dict(zip(self._kinds, sights, strict=True)) if self._kinds else sights[0]
        told = {self._cache_argument: cache, "attention_mask": mask, "position_ids": positions[None]}
        with inputs_of(self._layers, turn_of(self.model)) as captured:
            output = self.model(tokens[None], use_cache=True, **told)
        return [output.logits[0], *(states[0] for states in captured)]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it, with a sight for a mask."""
    terms = [name for name in OTHER_TERMS if others.get(name) is not None]
    if terms or attention_mask is None:
        raise ValueError(f"its attention has {', '.join(terms) or 'no mask'}, which the kernel does not know")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return kernels().attend_cache(query, key, value, attention_mask, scale), None


def trace(tree_pass: TreePass, buffers: Sequence[tuple[Tensor, Tensor]], num_kinds: int) -> ExportedProgram:
    """The graph for any number of nodes up to MOST_NODES and any capacity.

    `buffers`: keys and values of every layer, as an example. Raises whatever a foreign model raises.
    """
    device = buffers[0][0].device
    nodes, capacity = Dim("nodes", min=LEAST, max=MOST_NODES), Dim("capacity", min=LEAST, max=2**31 - 1)
    tokens = torch.zeros(EXAMPLE_NODES, dtype=torch.int64, device=device)
    sight = torch.zeros(1, 1, EXAMPLE_NODES, 2 + EXAMPLE_NODES, dtype=torch.int32, device=device)
    inputs = (tokens, tokens.clone(), [sight.clone() for _ in range(num_kinds)])
    keys, values = ([pair[i] for pair in buffers] for i in (0, 1))
    shapes = ({0: nodes}, {0: nodes}, [{2: nodes, 3: nodes + 2}] * num_kinds)
    filled = [{2: capacity} for _ in buffers]
    with torch.no_grad(), as_traced(tree_pass.model):
        return torch.export.export(
            tree_pass, (*inputs, keys, values), dynamic_shapes=(*shapes, filled, filled), strict=False
        )


@contextmanager
def as_traced(model: PreTrainedModel) -> Iterator[None]:
    """The model attends and multiplies by our kernels meanwhile."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    text: Any = model.config.get_text_config(decoder=True)
    with turn_of(model), our_products(model):
        attends, text._attn_implementation = text._attn_implementation, NAME
        try:
            yield
        finally:
            text._attn_implementation = attends


@contextmanager
def our_products(model: nn.Module) -> Iterator[None]:
    """Linear layers with weights that our product is for call it meanwhile, packed or not."""
    with stock(model):
        found = [module for module in model.modules() if type(module) is nn.Linear and "forward" not in vars(module)]
        layers = [one for one in found if one.weight.dtype in DTYPES] if kernels().has_product() else []
        for layer in layers:
            layer.forward = partial(_product, layer)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward


def _product(layer: nn.Linear, x: Tensor) -> Tensor:
    product: Tensor = kernels().product(x, layer.weight, layer.bias)
    return product
