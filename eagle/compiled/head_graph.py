"""A draft head's pass over a few entries as two graphs: its layer over a cache, and its logits.

Letters: B sequences, A entries of one pass, E columns of a sight, H draft hidden size, Vd draft vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from eagle.compiled.graph import EXAMPLE_NODES, EXAMPLE_SEQUENCES, MOST_NODES, our_products
from eagle.compiled.sight import HEADER, LEAST
from eagle.drafters.head import DraftHead
from eagle.kernels.compiler import kernels

MOST = 2**31 - 1


class LayerPass(nn.Module):
    """hidden, embedding (A, H), positions (A,), sight (1, 1, A, 5 + E), table (1, B, 3) -> states (A, H).

    Sight and table as in `eagle.compiled.sight`; new entries are written into the caches that the table names.
    """

    def __init__(self, head: DraftHead):
        super().__init__()
        self.model = head

    def forward(
        self, hidden: Tensor, embedding: Tensor, positions: Tensor, sight: Tensor, table: Tensor
    ) -> list[Tensor]:
        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            scale = query.shape[-1] ** -0.5
            mixed: Tensor = kernels().attend_cache(query, key, value, table[0], sight, scale)
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
    """The graph for any number of entries up to MOST_NODES, of any number of sequences, behind any number of others."""
    entries, columns = Dim("entries", min=LEAST, max=MOST_NODES), Dim("columns", min=HEADER + 1, max=MOST)
    sequences = Dim("sequences", min=LEAST, max=MOST_NODES)
    hidden = head.fc.weight.new_zeros(EXAMPLE_NODES, head.config.hidden_size)
    sight = torch.zeros(1, 1, EXAMPLE_NODES, HEADER + 3 * EXAMPLE_NODES, dtype=torch.int32)
    table = torch.zeros(1, EXAMPLE_SEQUENCES, 3, dtype=torch.int64)
    inputs = (hidden, hidden.clone(), torch.zeros(EXAMPLE_NODES, dtype=torch.int64), sight, table)
    shapes = ({0: entries}, {0: entries}, {0: entries}, {2: entries, 3: columns}, {1: sequences})
    return _traced(LayerPass(head), inputs, shapes)


def trace_logits(head: DraftHead) -> ExportedProgram:
    """The graph for any number of states up to MOST_NODES."""
    output = head.fc.weight.new_zeros(EXAMPLE_NODES, head.config.hidden_size)
    return _traced(LogitsPass(head), (output,), ({0: Dim("entries", min=LEAST, max=MOST_NODES)},))


def _traced(module: LayerPass | LogitsPass, inputs: tuple[Tensor, ...], shapes: tuple[object, ...]) -> ExportedProgram:
    with torch.no_grad(), our_products(module.model):
        return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
