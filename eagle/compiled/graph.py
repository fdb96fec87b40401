"""A pass over trees as one graph, traced from the stock modules: caches, masks and products with weights are ours.

Letters: B sequences, N nodes of all their trees including the roots, L layers, H hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import sdpa_mask

from eagle.compiled.sight import HEADER, LEAST
from eagle.engine.layers import inputs_of, turn_of
from eagle.engine.lowbit.by_rows import OTHER_TERMS
from eagle.engine.packing import stock
from eagle.kernels.compiler import kernels

Item = TypeVar("Item")
NAME = "eagle_compiled"
TABLE = "table"
MOST_NODES = 64  # of a compiled pass: beyond, oneDNN's products of many rows are faster
EXAMPLE_NODES, EXAMPLE_SEQUENCES = 5, 3
DTYPES = (torch.bfloat16, torch.float32)  # that the kernels know


class TracedLayer(CacheLayerMixin):
    """A layer's caches while a graph is traced: attention, which follows, reads and writes them by their addresses."""

    is_sliding = False

    def __init__(self, table: Tensor, asked: dict[str, Tensor]):
        """table (B, 3); asked: where attention looks for the table of the layer at work."""
        super().__init__()
        self._table, self._asked = table, asked
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self._asked[TABLE] = self._table
        return key_states, value_states

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        raise AssertionError("there are buffers")

    def get_seq_length(self, *args: Any) -> int:
        return 0

    def get_mask_sizes(self, query_length: Tensor | int, *args: Any) -> tuple[int, int]:
        return int(query_length), 0

    def get_max_cache_shape(self) -> int:
        return -1

    def get_max_length(self) -> int:
        return -1


class TreePass(nn.Module):
    """tokens, positions (N,), a sight for a kind of layer, table (L, B, 3) -> logits (N, V), L layers' inputs (N, H).

    Sights and table as in `eagle.compiled.sight`; new entries are written into the caches that the table names. Which
    inputs are features is chosen afterwards: a head that reads others needs no other graph.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[nn.Module], cache_argument: str, kinds: Sequence[str]):
        super().__init__()
        self.model = model
        self._layers, self._cache_argument, self._kinds = list(layers), cache_argument, kinds
        self.asked: dict[str, Tensor] = {}

    def forward(self, tokens: Tensor, positions: Tensor, sights: list[Tensor], table: Tensor) -> list[Tensor]:
        cache = Cache(layers=[TracedLayer(table[layer], self.asked) for layer in range(len(self._layers))])
        mask = dict(zip(self._kinds, sights, strict=True)) if self._kinds else sights[0]
        told = {self._cache_argument: cache, "attention_mask": mask, "position_ids": positions[None]}
        with inputs_of(self._layers, turn_of(self.model)) as captured:
            output = self.model(tokens[None], use_cache=True, **told)
        return [output.logits[0], *(states[0] for states in captured)]


def attend(
    asked: dict[str, Tensor],
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
    return kernels().attend_cache(query, key, value, asked.pop(TABLE), attention_mask, scale), None


def trace(tree_pass: TreePass, num_layers: int, num_kinds: int) -> ExportedProgram:
    """The graph for any number of nodes up to MOST_NODES of any number of sequences, and caches of any size.

    Raises whatever a foreign model raises.
    """
    nodes, sequences = Dim("nodes", min=LEAST, max=MOST_NODES), Dim("sequences", min=LEAST, max=MOST_NODES)
    tokens = torch.zeros(EXAMPLE_NODES, dtype=torch.int64)
    sight = torch.zeros(1, 1, EXAMPLE_NODES, HEADER + EXAMPLE_NODES, dtype=torch.int32)
    table = torch.zeros(num_layers, EXAMPLE_SEQUENCES, 3, dtype=torch.int64)
    inputs = (tokens, tokens.clone(), [sight.clone() for _ in range(num_kinds)], table)
    shapes = ({0: nodes}, {0: nodes}, [{2: nodes, 3: nodes + HEADER}] * num_kinds, {1: sequences})
    with torch.no_grad(), as_traced(tree_pass):
        return torch.export.export(tree_pass, inputs, dynamic_shapes=shapes, strict=False)


def in_groups(items: Sequence[Item], sizes: Sequence[int]) -> list[list[Item]]:
    """In order, as few passes as take so many nodes each. What is larger than a pass is a group of its own."""
    groups, held = list[list[Item]](), MOST_NODES
    for item, size in zip(items, sizes, strict=True):
        if held + size > MOST_NODES:
            groups.append([])
            held = 0
        groups[-1].append(item)
        held += size
    return groups


@contextmanager
def as_traced(tree_pass: TreePass) -> Iterator[None]:
    """The model attends and multiplies by our kernels meanwhile."""
    model = tree_pass.model
    AttentionInterface.register(NAME, partial(attend, tree_pass.asked))
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
