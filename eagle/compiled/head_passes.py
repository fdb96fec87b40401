"""Passes of a draft head over a few entries by compiled graphs, tried against the eager ones before they are used.

A head follows its target: where the target's passes are compiled, its own are. Such passes wait for weights, and a head
only proposes: where the processor multiplies bytes they read a copy of them in 8 bits. Prompts are read as ever.

Letters: A entries of one pass, T entries before them, H draft hidden size, Vd draft vocabulary, d head size.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn.functional import pad

from eagle.compiled.graph import DTYPES, MOST_NODES, in_groups
from eagle.compiled.head_graph import trace_layer, trace_logits
from eagle.compiled.lowering import Run, lowered
from eagle.compiled.passes import TRIAL_PARENTS, TRIAL_PREFIX, refuse
from eagle.compiled.recorded_head import RecordedHead
from eagle.compiled.sight import HEADER, LEAST, table
from eagle.drafters.head import DraftHead
from eagle.drafters.reader import HeadReader, NewEntries
from eagle.dtypes import dtype_name
from eagle.engine import masks
from eagle.engine.lowbit.low_bit_linear import shrink_layers
from eagle.engine.protocol import SmallRead
from eagle.engine.suitability import HALF_TOLERANCE, TOLERANCE, first_line, spread_apart
from eagle.kernels.compiler import kernels

BITS = 8  # in 4 a step is a quarter faster, and drafts are rounded to a sixteenth of the range of a block


class CompiledHead:
    """What `HeadReader` reads a few entries with: the numbers of its eager pass, but for sums in another order and for
    what rounding the weights changes.
    """

    shares_passes = True

    def __init__(self, layer: Run, logits: Run, dtype: torch.dtype):
        self._layer, self._logits, self._dtype = layer, logits, dtype

    def takes(self, states: Tensor) -> bool:
        """See `SmallRead.takes`."""
        return 0 < len(states) <= MOST_NODES and states.dtype == self._dtype and not torch.is_grad_enabled()

    def read(self, rows: Sequence[NewEntries]) -> list[Tensor]:
        """See `SmallRead.read`. In as few passes as take all entries."""
        outputs: list[Tensor] = []
        for group in in_groups(rows, [len(row.hidden) for row in rows]):
            outputs += self._read(group)
        return outputs

    def _read(self, rows: Sequence[NewEntries]) -> tuple[Tensor, ...]:
        sizes = [len(row.hidden) for row in rows]
        missing = max(LEAST - sum(sizes), 0)  # entries that see the first one's cache, and nobody sees them
        for number, row in enumerate(rows):
            row.cache.reserve(row.cache.length + len(row.hidden) + (0 if number else missing))
        places = table([[(row.cache.keys, row.cache.values)] for row in rows])
        given = [
            pad(torch.cat(each), (*([0, 0] * (each[0].dim() - 1)), 0, missing))
            for each in zip(*((row.hidden, row.embedding, row.positions) for row in rows), strict=True)
        ]
        (output,) = self._layer(*given, _sight(rows, missing), places)
        for row in rows:
            row.cache.length += len(row.hidden)
        parts: tuple[Tensor, ...] = output[: sum(sizes)].split(sizes)
        return parts

    def logits(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """See `SmallRead.logits`. In as few passes as take all states."""
        outputs: list[Tensor] = []
        for group in in_groups(rows, [len(row) for row in rows]):
            sizes = [len(row) for row in group]
            (logits,) = self._logits(pad(torch.cat(group), (0, 0, 0, max(LEAST - sum(sizes), 0))))
            outputs += logits[: sum(sizes)].split(sizes)
        return outputs


def _sight(rows: Sequence[NewEntries], missing: int) -> Tensor:
    """What entries see of all that is filled with them, as `eagle.compiled.sight` has it: (1, 1, A, 5 + T + A).

    No prefix is named, all is told by column, T + A of the longest row. The `missing` ones see all of the first row.
    """
    filled = [row.cache.length + len(row.hidden) for row in rows]
    parts = []
    for number, row in enumerate(rows):
        num, more = len(row.hidden), 0 if number else missing
        seen = torch.ones(num, filled[number]) if row.mask is None else row.mask[0, 0] == 0
        columns = pad(seen.int(), (0, max(filled) - filled[number], 0, more))  # (A, T + A)
        columns[num:, : filled[number]] = 1
        header = torch.zeros(num + more, HEADER, dtype=torch.int32)
        header[:, 3] = torch.arange(row.cache.length, filled[number] + more)
        header[:, 4] = number
        parts.append(torch.cat([header, columns], dim=1))
    return torch.cat(parts)[None, None]


def compile_head(
    head: DraftHead, is_demanded: bool, bits: int | None = BITS, notice: Callable[[str], None] | None = None
) -> None:
    """Let a head read few entries by compiled graphs, with weights in so many bits; None: as they are.

    Where that cannot be: ValueError if it is demanded, else one message.
    """
    if (reason := why_not(head)) is None:
        try:
            if head.fc.weight.device.type == "cuda":
                compare(head, lambda: RecordedHead(head), None)
            else:
                _compile(head, bits if kernels().has_low_bit() else None)
            return
        except Exception as error:  # of a compiler: it is the answer
            head.small_read, reason = None, first_line(error) or type(error).__name__
    refuse(f"the draft head cannot be compiled: {reason}", is_demanded, notice)


def why_not(head: DraftHead) -> str | None:
    """What is known without a try; None where it may be possible."""
    weight = head.fc.weight
    if weight.device.type == "cuda":
        return None
    if weight.device.type != "cpu":
        return f"compiled passes are for CPUs and CUDA devices, it is on {weight.device}"
    if weight.dtype not in DTYPES:
        return f"its numbers are {dtype_name(weight.dtype)}, the kernels know bfloat16 and float32"
    return None


def _compile(head: DraftHead, bits: int | None) -> None:
    """Raises ValueError as `compare`."""

    def make() -> CompiledHead:
        identity, small = str(head.config), head if bits is None else _in_few_bits(head, bits)
        layer = lowered(small, "the head's layer", identity, lambda: trace_layer(small))
        logits = lowered(small, "the head's logits", identity, lambda: trace_logits(small))
        return CompiledHead(layer, logits, head.fc.weight.dtype)

    compare(head, make, bits)


def compare(head: DraftHead, make: Callable[[], SmallRead], bits: int | None) -> None:
    """Give the head this way to read; raises ValueError where states or logits of entries are not the eager ones.

    The bounds are those for trees of a target, and where weights are rounded the one in bfloat16.
    """
    wanted, dtype = _read_a_tree(head), head.fc.weight.dtype
    head.small_read = make()
    bound = TOLERANCE.get(dtype, HALF_TOLERANCE) if bits is None else HALF_TOLERANCE
    for what, one, other in zip(("states", "logits"), _read_a_tree(head), wanted, strict=True):
        if not (apart := spread_apart(one, other)) <= bound:
            raise ValueError(f"its compiled {what} differ by {apart:.2g} of their spread from the eager ones")


def _in_few_bits(head: DraftHead, bits: int) -> DraftHead:
    """A copy with other weights in the layer and the output; what is read beside them is shared."""
    kept = [module for module in (head.fc, head.embed_tokens) if module is not None]
    copied = deepcopy(head, {id(module): module for module in kept})
    shrink_layers(copied, bits, kept=kept)
    return copied


@torch.inference_mode()
def _read_a_tree(head: DraftHead) -> tuple[Tensor, Tensor]:
    """States (A, H) and logits (A, Vd) of random entries behind random others, after another such pass."""
    weight, nodes = head.fc.weight, len(TRIAL_PARENTS)
    dtype, draws = weight.dtype, torch.Generator().manual_seed(0)
    given = torch.randn(2, TRIAL_PREFIX + nodes, head.config.hidden_size, generator=draws).to(weight)
    prefix, tree = torch.arange(TRIAL_PREFIX + nodes, device=weight.device).split([TRIAL_PREFIX, nodes])
    ancestors = masks.ancestor_matrix(TRIAL_PARENTS).to(weight.device)
    before = torch.ones(TRIAL_PREFIX, TRIAL_PREFIX, device=weight.device).tril().bool()
    reader = HeadReader(head, given[1].__getitem__)
    reader.read(given[0, prefix], prefix, prefix, masks.tree_mask(before, 0, dtype))
    mask = masks.tree_mask(ancestors, TRIAL_PREFIX, dtype)
    positions = TRIAL_PREFIX + masks.depths(ancestors)
    for hidden in (-given[0, tree], given[0, tree]):  # the second as what was recorded with the first is replayed
        reader.rewind(TRIAL_PREFIX)
        states = reader.read(hidden, tree, positions, mask)
        logits = reader.logits(states)
    return states, logits
