"""Preallocated keys and values with one verb, `keep(path)`; the only file that knows transformers' cache classes.

Letters: T committed length, N nodes appended by the last forward, C capacity, d head size.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from eagle.engine.rope import RopeSwitch

GROWTH_BLOCK = 256  # buffers grow by whole blocks, so that shapes repeat and copies stay rare


def cache_argument(model: PreTrainedModel) -> str:
    """What the model's forward calls its cache: `cache` from transformers 5.24 on, `past_key_values` before.

    Two kinds of recurrent models have names of their own.
    """
    known = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "cache_params", "state") if name in known), "past_key_values")


class PreallocatedLayer(CacheLayerMixin):
    """One layer's keys and values (1, kv_heads, C, d), of which the first `length` are filled."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, capacity: int, limit: int):
        super().__init__()
        self.capacity, self.limit, self.length = capacity, limit, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        values = key_states if value_states is None else value_states
        self.keys = key_states.new_zeros(*key_states.shape[:2], self.capacity, key_states.shape[-1])
        self.values = values.new_zeros(*values.shape[:2], self.capacity, values.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new states behind the filled part; returns views of all that is filled, (1, kv_heads, T + N, d)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        self.reserve(end)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def reserve(self, length: int) -> None:
        if length <= self.capacity:
            return
        capacity = min(max(length, self.capacity + GROWTH_BLOCK), max(length, self.limit))
        self.keys, self.values = (_grown(buffer, capacity) for buffer in (self.keys, self.values))
        self.capacity = capacity

    def move(self, keys: Tensor, values: Tensor) -> None:
        """Go on in other buffers (1, kv_heads, C', d), with room for what is filled."""
        keys[:, :, : self.length] = self.keys[:, :, : self.length]
        values[:, :, : self.length] = self.values[:, :, : self.length]
        self.keys, self.values, self.capacity = keys, values, keys.shape[2]

    def keep(self, committed: int, nodes: Tensor) -> None:
        """Move the appended entries `nodes` (ascending indices among the appended) behind the committed ones."""
        end = committed + nodes.numel()
        if self.is_initialized and nodes.numel() and not _in_place(nodes):
            source = nodes.to(self.keys.device) + committed
            self.keys[:, :, committed:end] = self.keys.index_select(2, source)
            self.values[:, :, committed:end] = self.values.index_select(2, source)
        self.length = end

    def get_seq_length(self, *args: Any) -> int:
        return self.length

    def get_mask_sizes(self, query_length: Tensor | int, *args: Any) -> tuple[int, int]:
        # transformers 4.57 passes the query's positions, 5.x their number
        queries = query_length.shape[0] if isinstance(query_length, Tensor) else query_length
        return self.length + queries, 0

    def get_max_cache_shape(self) -> int:  # the name in transformers 4.57
        return -1

    def get_max_length(self) -> int:  # the name in transformers 5.x
        return -1


def _in_place(nodes: Tensor) -> bool:
    """Whether ascending nodes are the first ones; on an accelerator nobody waits to find out."""
    return nodes.device.type == "cpu" and int(nodes[-1]) == nodes.numel() - 1


def _grown(buffer: Tensor, capacity: int) -> Tensor:
    larger = buffer.new_zeros(*buffer.shape[:2], capacity, buffer.shape[-1])
    larger[:, :, : buffer.shape[2]] = buffer
    return larger


class KeyValueCache:
    """The keys and values of one sequence. A forward appends N entries; `keep` then decides which of them stay.

    `length` counts committed entries only. `limit` is the number of positions the target was made for.
    """

    def __init__(self, num_layers: int, limit: int, capacity: int = 2 * GROWTH_BLOCK, switch: RopeSwitch | None = None):
        self.limit, self.switch = limit, switch
        self.length = 0
        self._first_read = 0  # tokens of the pass that filled the empty cache
        self._layers = [PreallocatedLayer(min(capacity, limit), limit) for _ in range(num_layers)]
        self.transformers_cache = Cache(layers=list(self._layers))

    def check_room(self, num_tokens: int) -> None:
        """Raises ValueError when `num_tokens` more would not fit into the target's context."""
        _check_room(self.length, num_tokens, self.limit)

    @property
    def max_depth(self) -> int:
        """Levels that a tree may have below a root that is the next entry; see `eagle.engine.rope` for the second."""
        room = self.limit - self.length - 1
        if self.switch is None:
            return room
        if self.length < self.switch.at:
            return min(room, self.switch.at - self.length - 1)
        return 0 if self.switch.keeps_changing else room

    @property
    def is_stale(self) -> bool:
        """Whether plain decoding would read the whole text again before it reads the next token."""
        return self.switch is not None and self.switch.reads_again and self.length == self.switch.at

    def usable_prefix(self, num_tokens: int) -> int:
        """Committed entries that are what a fresh pass over a text of `num_tokens`, beginning alike, would make."""
        if self.switch is None or max(self.length, num_tokens) <= self.switch.at:
            return self.length
        read_long = self._first_read > self.switch.at and num_tokens > self.switch.at
        return self.length if read_long and not self.switch.keeps_changing else 0

    @property
    def is_filled(self) -> bool:
        """Whether every layer has buffers: after the first pass, but for models whose layers share them."""
        return bool(self.length) and all(layer.is_initialized for layer in self._layers)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append entries (1, kv_heads, N, d) of a layer; views of all that it holds, as `PreallocatedLayer.update`."""
        return self._layers[layer].update(keys, values)

    @property
    def layers(self) -> Sequence[PreallocatedLayer]:
        """One for each of the model's, for whoever gives them other buffers."""
        return self._layers

    @torch.inference_mode()
    def buffers(self, num_new: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of every layer, (1, kv_heads, C, d), with room behind the committed entries.

        For a pass that writes by itself; it says so with `appended`.
        """
        for layer in self._layers:
            layer.reserve(self.length + num_new)
        return [layer.keys for layer in self._layers], [layer.values for layer in self._layers]

    def appended(self, num_new: int) -> None:
        """So many entries were written behind the committed ones."""
        for layer in self._layers:
            layer.length = self.length + num_new

    @torch.inference_mode()
    def keep(self, nodes: Tensor) -> None:
        """Commit the appended entries `nodes`, in this order, and forget the others.

        nodes: int64, indices among the entries appended since the last `keep`, ascending.
        """
        for layer in self._layers:
            layer.keep(self.length, nodes)
        if self.length == 0:
            self._first_read = nodes.numel()
        self.length += nodes.numel()

    def truncate(self, length: int) -> None:
        """Forget everything behind the first `length` committed entries."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} entries to {length}")
        self.length = length
        for layer in self._layers:
            layer.length = length

    def num_bytes(self) -> int:
        """Bytes allocated for keys and values."""
        buffers = [buffer for layer in self._layers for buffer in (layer.keys, layer.values) if buffer is not None]
        return sum(buffer.numel() * buffer.element_size() for buffer in buffers)


class StockCache:
    """The cache that transformers makes for a model, for plain decoding of targets that `KeyValueCache` does not fit.

    Such a target keeps a running state from which nothing can be taken back: entries are committed as they are read,
    and only all of them can be forgotten.
    """

    max_depth = 0
    is_stale = False

    def __init__(self, limit: int):
        self.limit = limit
        self.truncate(0)

    def check_room(self, num_tokens: int) -> None:
        """Raises ValueError when `num_tokens` more would not fit into the target's context."""
        _check_room(self.length, num_tokens, self.limit)

    def usable_prefix(self, num_tokens: int) -> int:
        return 0

    def keep(self, nodes: Tensor) -> None:
        """Commit all entries of the last pass; `nodes` are all of them."""
        self.length += nodes.numel()

    def truncate(self, length: int) -> None:
        if length:
            raise ValueError(f"a running state cannot be taken back to {length} entries: read the text again")
        self.length = 0
        self.transformers_cache: Cache | None = None  # the model makes one, of its own kind, at its first pass


TargetCache = KeyValueCache | StockCache


def _check_room(length: int, num_tokens: int, limit: int) -> None:
    if length + num_tokens > limit:
        raise ValueError(
            f"{length} cached + {num_tokens} new tokens exceed the target's context of {limit} tokens: "
            "shorten the prompt, lower max_new_tokens, or start a new conversation"
        )
