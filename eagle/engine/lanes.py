"""Keys and values of many conversations that grow side by side, each at its own length.

The stock ``DynamicCache`` concatenates all it holds at each step and wants all rows equally long. Here a row owns a
*lane* that is written in place, and lanes of similar length share a *group* with one contiguous buffer, so that a
short answer does not pay for a long one. Without forked modeling files: transformers hands keys and values to the
cache it was given and the result to the attention function the model names, and both are ours.

    M lanes in a group, G groups, B = G * M rows, KV key-value heads, R query heads a KV head, C capacity, d head size
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from eagle.engine.rope import rope_switch

Tensors = tuple[Tensor, ...]
ATTENTION_NAME = "eagle_lanes"
BLOCK = 64  # capacities are multiples of this; regrouping every BLOCK steps then never meets a full buffer


@contextmanager
def lanes_in(model: PreTrainedModel) -> Iterator[None]:
    """Let ``model`` attend through lanes for a while, and as before afterwards."""
    before = model.config._attn_implementation
    AttentionInterface.register(ATTENTION_NAME, lane_attention)
    model.set_attn_implementation(ATTENTION_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def check_rope(config: PretrainedConfig, max_length: int) -> None:
    """Raises ValueError where the longest lane of a step would change the angles of all: see `eagle.engine.rope`."""
    switch = rope_switch(config)
    if switch is not None and switch.at < max_length:
        raise ValueError(
            f"the target's rotary frequencies change behind {switch.at} tokens, max_length is {max_length}: "
            f"lower max_length to {switch.at}"
        )


def lane_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor | Tensors,
    value: Tensor | Tensors,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,  # attention sinks, as gpt_oss has them
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over what the views below return: one tensor while a prompt is read, a tuple of groups in a step."""
    unknown = {name: value for name, value in {"softcap": softcap, "s_aux": s_aux}.items() if value is not None}
    if unknown:
        raise ValueError(f"lane attention knows no {' and no '.join(unknown)}, which the model asks for")
    if isinstance(key, Tensor) and isinstance(value, Tensor):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    rows, outputs = 0, []
    for keys, values in zip(key, value, strict=True):
        group = slice(rows, rows + keys.shape[0])
        mask = attention_mask[group, :, :, : keys.shape[2]]  # (M, 1, 1, C)
        outputs.append(_attend(query[group], keys, values, mask, scaling))
        rows = group.stop
    return torch.cat(outputs).transpose(1, 2), None  # (B, 1, heads, d)


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """One query a row: the R heads that share keys become rows of one matrix product, in place of repeated keys."""
    lanes, kv_heads, _, size = keys.shape
    folded = query.reshape(lanes, kv_heads, -1, size) * (scaling or size**-0.5)  # (M, KV, R, d)
    scores = torch.matmul(folded, keys.transpose(2, 3)).float() + mask  # (M, KV, R, C)
    laws = torch.softmax(scores, dim=-1).to(values.dtype)
    return torch.matmul(laws, values).reshape(lanes, -1, 1, values.shape[-1])  # (M, heads, 1, d)


class LaneCache:
    """Buffers ``(M, KV, C, d)`` for each layer and group, and the number of tokens that each lane holds.

    They are made at a layer's first pass, which shows its heads and sizes: keys may be wider than values.
    """

    def __init__(self, num_layers: int, num_lanes: int, group_size: int, device: torch.device):
        if num_lanes % group_size:
            raise ValueError(f"{num_lanes} lanes do not divide into groups of {group_size}: choose a multiple")
        self.lengths = torch.zeros(num_lanes, dtype=torch.long, device=device)  # (B,)
        self.group_size = group_size
        self.capacities = [BLOCK] * (num_lanes // group_size)  # a group
        self.keys: list[list[Tensor]] = [[] for _ in range(num_layers)]  # a layer, a group; (M, KV, C, d)
        self.values: list[list[Tensor]] = [[] for _ in range(num_layers)]

    def of_layer(self, layer: int, keys: Tensor, values: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """A layer's buffers, made like what is to be written to them (B, KV, n, d) where there are none."""
        for buffers, new in ((self.keys[layer], keys), (self.values[layer], values)):
            if not buffers:
                buffers += [self._buffer(capacity, new) for capacity in self.capacities]
        return self.keys[layer], self.values[layer]

    def _buffer(self, capacity: int, like: Tensor) -> Tensor:
        return like.new_zeros(self.group_size, like.shape[1], capacity, like.shape[3])  # (M, KV, C, d)

    def reserve(self, lane: int, length: int) -> None:
        """Make room for ``length`` tokens in ``lane``; reallocates the lane's group when it is too small."""
        group = lane // self.group_size
        if length <= self.capacities[group]:
            return
        self.capacities[group] = _rounded(length)
        for buffers in filter(None, (*self.keys, *self.values)):
            grown = self._buffer(self.capacities[group], buffers[group])
            grown[:, :, : buffers[group].shape[2]] = buffers[group]
            buffers[group] = grown

    def regroup(self) -> list[int]:
        """Sort the lanes by length and fit every group to its longest; returns the old lane of each new one."""
        order = torch.argsort(self.lengths, stable=True)  # (B,)
        self.lengths = self.lengths[order]
        self.capacities = [_rounded(int(part.max()) + BLOCK) for part in torch.split(self.lengths, self.group_size)]
        places = [divmod(lane, self.group_size) for lane in order.tolist()]
        for layers in (self.keys, self.values):
            for layer, buffers in enumerate(layers):
                layers[layer] = self._sorted(buffers, places) if buffers else []
        return order.tolist()

    def _sorted(self, buffers: list[Tensor], places: list[tuple[int, int]]) -> list[Tensor]:
        fresh = [self._buffer(capacity, buffers[0]) for capacity in self.capacities]
        for lane, (group, row) in enumerate(places):
            target = fresh[lane // self.group_size][lane % self.group_size]  # (KV, C, d)
            length = int(self.lengths[lane])
            target[:, :length] = buffers[group][row, :, :length]
        return fresh


def _rounded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


@dataclass(frozen=True)
class PromptView:
    """Writes a run of tokens behind what ``lane`` holds and attends to the lane alone."""

    cache: LaneCache
    lane: int
    start: int  # tokens that the lane held before

    def get_seq_length(self, *_: Any) -> int:
        return self.start  # transformers 4.57 asks, and then uses the position_ids it is given

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> Tensors:
        group, row = divmod(self.lane, self.cache.group_size)
        end = self.start + keys.shape[2]
        held = [buffers[group][row] for buffers in self.cache.of_layer(layer, keys, values)]  # (KV, C, d)
        for buffer, new in zip(held, (keys, values), strict=True):
            buffer[:, self.start : end] = new[0]
        return tuple(buffer[None, :, :end] for buffer in held)  # (1, KV, end, d)


@dataclass(frozen=True)
class StepView:
    """Writes one token a lane, at the lane's own length, and attends group by group."""

    cache: LaneCache
    lengths: Sequence[Tensor]  # tokens held before the step, (M,) a group

    def get_seq_length(self, *_: Any) -> int:  # as above; every row has its own length
        return 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensors, Tensors]:
        size = self.cache.group_size
        rows = torch.arange(size, device=keys.device)
        held = self.cache.of_layer(layer, keys, values)
        for buffers, new in zip(held, (keys, values), strict=True):
            for buffer, lengths, token in zip(buffers, self.lengths, torch.split(new, size), strict=True):
                buffer[rows, :, lengths] = token[:, :, 0]  # (M, KV, d)
        return tuple(held[0]), tuple(held[1])
