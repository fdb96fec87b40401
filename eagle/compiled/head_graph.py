"""A draft head's pass over a few entries as two graphs: its layer over a cache, and its logits.

Letters: A entries of one pass, E entries in the cache with them, C capacity of the cache, H draft hidden size, Vd draft
vocabulary, d head size.
"""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from eagle.compiled.graph import EXAMPLE_NODES, MOST_NODES, our_products
from eagle.compiled.sight import LEAST
from eagle.drafters.head import DraftHead
from eagle.kernels.compiler import kernels

MOST = 2**31 - 1


class LayerPass(nn.Module):
    """hidden, embedding (A, H), positions (A,), sight (1, 1, A, 2 + E), keys, values (1, kv_heads, C, d) -> (A, H).

    New entries are written to their places in keys and values.
    """

    def __init__(self, head: DraftHead):
        super().__init__()
        self.model = head

    def forward(
        self, hidden: Tensor, embedding: Tensor, positions: Tensor, sight: Tensor, keys: Tensor, values: Tensor
    ) -> list[Tensor]:
        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            kernels().append_(keys, values, key, value, sight)
            mixed: Tensor = kernels().attend_cache(query, keys, values, sight, query.shape[-1] ** -0.5)
            return mixed.transpose(1, 2)  # (1, heads, A, d)

        return [self.model(hidden[None], embedding[None], positions[None], attend)[0]]


class LogitsPass(nn.Module):
    """Output states (A, H) -> logits (A, Vd) in float32."""

    def __init__(self, head: DraftHead):
        super().__init__()
        self.model = head

    def forward(self, output: Tensor) -> list[Tensor]:
        return [self.model.logits(output).float()]


def trace_layer(head: DraftHead) -> ExportedProgram:
    """The graph for any number of entries up to MOST_NODES, behind any number of others, and any capacity."""
    config, weight = head.config, head.fc.weight
    entries, columns = Dim("entries", min=LEAST, max=MOST_NODES), Dim("columns", min=LEAST, max=MOST)
    capacity = Dim("capacity", min=LEAST, max=MOST)
    hidden = weight.new_zeros(EXAMPLE_NODES, config.hidden_size)
    sight = torch.zeros(1, 1, EXAMPLE_NODES, 2 + 3 * EXAMPLE_NODES, dtype=torch.int32)
    keys = weight.new_zeros(1, config.num_key_value_heads, 4 * EXAMPLE_NODES, config.head_dim)
    inputs = (hidden, hidden.clone(), torch.zeros(EXAMPLE_NODES, dtype=torch.int64), sight, keys, keys.clone())
    shapes = ({0: entries}, {0: entries}, {0: entries}, {2: entries, 3: columns}, {2: capacity}, {2: capacity})
    return _traced(LayerPass(head), inputs, shapes)


def trace_logits(head: DraftHead) -> ExportedProgram:
    """The graph for any number of states up to MOST_NODES."""
    output = head.fc.weight.new_zeros(EXAMPLE_NODES, head.config.hidden_size)
    return _traced(LogitsPass(head), (output,), ({0: Dim("entries", min=LEAST, max=MOST_NODES)},))


def _traced(module: LayerPass | LogitsPass, inputs: tuple[Tensor, ...], shapes: tuple[object, ...]) -> ExportedProgram:
    with torch.no_grad(), our_products(module.model):
        return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
