"""Passes of a target over a few nodes on an accelerator, recorded once for every size and replayed.

What is recorded is the stock model's own eager pass, over buffers that stay where they are. Trees are padded to a power
of two of nodes, and attend to whole blocks of their cache. On no accelerator it was run so far: what is tested on CPUs
is everything but the recording itself (`tests/compiled/test_recorded.py`).

Letters: N nodes of a padded tree, C columns that are attended to, L layers, H hidden size, V vocabulary, d head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from eagle.compiled.replays import CudaRecording, Place, Places, Record, bucket, columns
from eagle.compiled.sight import padded
from eagle.engine import masks
from eagle.engine.cache import KeyValueCache, TargetCache
from eagle.engine.layers import inputs_of
from eagle.engine.protocol import Scored, TargetOutput
from eagle.engine.shape import attention_shape
from eagle.engine.target import Target

MOST_NODES = 64


@dataclass(frozen=True)
class _Buffers:
    """What a model takes for its cache: writes entries to their places and hands out whole columns."""

    place: Place
    entries: Tensor  # (N,), where those of this pass lie
    num_columns: int

    def get_seq_length(self, *_: Any) -> int:  # the model is given positions and masks
        return 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """(1, kv_heads, N, d) each -> (1, kv_heads, C, d)."""
        found = []
        for buffer, new in ((self.place.keys[layer], keys), (self.place.values[layer], values)):
            buffer.index_copy_(2, self.entries, new)
            found.append(buffer[:, :, : self.num_columns])
        return found[0], found[1]


class RecordedPass:
    """What `Target` reads a few nodes with: its eager pass, but for sums over padding, which count nothing."""

    shares_passes = False  # rows of a batch share an eager one

    def __init__(self, target: Target, is_demanded: bool = False, record: Record = CudaRecording):
        """is_demanded: see `SmallPass`. record: how passes are recorded."""
        self.is_demanded = is_demanded
        self._target, self._shape, self._places = target, attention_shape(target.config), Places(record)

    def takes(self, num_nodes: int, cache: TargetCache, dtype: torch.dtype) -> bool:
        """See `SmallPass.takes`. All other passes are eager."""
        return num_nodes <= MOST_NODES and isinstance(cache, KeyValueCache) and cache.is_filled

    def score(self, tokens: Tensor, ancestors: Tensor, cache: KeyValueCache, layers: Sequence[int]) -> TargetOutput:
        """See `SmallPass.score`."""
        num_nodes = len(tokens)
        tokens, ancestors = padded(tokens, ancestors, bucket(num_nodes, MOST_NODES))
        place = self._places.of(cache.layers, len(tokens))
        num_columns = columns(cache.length + len(tokens), place.capacity)
        entries = cache.length + torch.arange(len(tokens), device=tokens.device)
        sight = self._masks(ancestors, cache.length, num_columns)
        kinds, each = (list(sight), list(sight.values())) if isinstance(sight, dict) else ([], [sight])

        def work(tokens: Tensor, positions: Tensor, entries: Tensor, *each: Tensor) -> Sequence[Tensor]:
            told = dict(zip(kinds, each, strict=True)) if kinds else each[0]
            return self._read(tokens, positions, _Buffers(place, entries, num_columns), told, layers)

        inputs = [tokens, cache.length + masks.depths(ancestors), entries, *each]
        logits, features = place.recordings.do((len(tokens), num_columns, tuple(layers)), work, inputs)
        cache.appended(num_nodes)
        return TargetOutput(logits[:num_nodes], features[:num_nodes])

    def score_together(self, trees: Sequence[Scored], layers: Sequence[int]) -> list[TargetOutput]:
        """See `SmallPass.score_together`; one after the other."""
        return [self.score(tree.tokens, tree.ancestors, tree.cache, layers) for tree in trees]

    def _read(
        self,
        tokens: Tensor,
        positions: Tensor,
        buffers: _Buffers,
        mask: Tensor | dict[str, Tensor],
        layers: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        """The model's own pass: logits (N, V) and features (N, 3H)."""
        target = self._target
        with inputs_of([target.layers[layer] for layer in layers], target.turn) as captured:
            output = target.model(
                tokens[None],
                attention_mask=mask,
                position_ids=positions[None],
                use_cache=True,
                **{target.cache_argument: buffers},
            )
        return output.logits[0], target.joined(captured)[0]

    def _masks(self, ancestors: Tensor, length: int, num_columns: int) -> Tensor | dict[str, Tensor]:
        """(1, 1, N, C), or one for each kind of layer."""
        dtype, missing = self._target.dtype, num_columns - length - len(ancestors)

        def make(window: int | None = None, chunk: int | None = None) -> Tensor:
            mask = masks.tree_mask(ancestors, length, dtype, window, chunk=chunk)
            return pad(mask, (0, missing), value=torch.finfo(dtype).min)

        return masks.by_kind(self._shape, make)
