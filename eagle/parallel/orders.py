"""What the leading process tells the others before every pass, and how.

An order is a line of plain values over gloo, whatever carries the tensors: a process that waits for one keeps no
accelerator busy, and may wait for a day. Tensors follow over the group of the passes, from device to device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from hsd_verify.transfer import send

LEADER = 0
PATIENCE = timedelta(days=365)  # between two orders: a chat waits for its user, a server for requests


@dataclass(frozen=True)
class Edit:
    """What became of a cache between two passes: entries that stayed, or a length that it was cut to."""

    length: int | None = None
    nodes: Tensor | None = None  # as `KeyValueCache.keep` takes them


@dataclass(frozen=True)
class Order:
    """A pass: its verb, what it reads, and the cache that it reads behind."""

    verb: str
    inputs: tuple[Tensor | int | None, ...] = ()
    cache: int | None = None  # its number
    edits: tuple[Edit, ...] = ()  # of that cache, since its last pass
    forgotten: tuple[int, ...] = ()  # caches that are no more

    @property
    def tensors(self) -> list[Tensor]:
        """In the order in which they are sent."""
        kept = [edit.nodes for edit in self.edits]
        return [part for part in (*kept, *self.inputs) if isinstance(part, Tensor)]


@dataclass(frozen=True)
class _Shape:
    """Of a tensor that is on its way."""

    sizes: tuple[int, ...]
    dtype: torch.dtype


@dataclass
class Link:
    """The way between the processes. Made by all of them together."""

    device: torch.device  # of the tensors
    in_pass: bool = False  # on the leader: all are at work
    is_broken: bool = False  # on the leader: a pass ended in the middle
    _control: dist.ProcessGroup = field(init=False)

    def __post_init__(self) -> None:
        self._control = dist.new_group(backend="gloo", timeout=PATIENCE)

    def send(self, order: Order | None) -> None:
        """On the leader: what comes next. None: nothing any more."""
        dist.broadcast_object_list([order and _described(order)], src=LEADER, group=self._control)
        for tensor in order.tensors if order else ():
            dist.broadcast(send(tensor, self.device).contiguous(), src=LEADER)

    def receive(self) -> Order | None:
        """On a follower: waits for what comes next."""
        told: list[Order | None] = [None]
        dist.broadcast_object_list(told, src=LEADER, group=self._control)
        return told[0] and _filled(told[0], self.device)


def _described(order: Order) -> Order:
    """The order with shapes in place of its tensors."""
    return _with(order, [_Shape(tuple(tensor.shape), tensor.dtype) for tensor in order.tensors])


def _filled(order: Order, device: torch.device) -> Order:
    """The order with its tensors in place of their shapes, as they arrive."""
    parts: list[object] = [*(edit.nodes for edit in order.edits), *order.inputs]
    arriving = [torch.empty(part.sizes, dtype=part.dtype, device=device) for part in parts if isinstance(part, _Shape)]
    for tensor in arriving:
        dist.broadcast(tensor, src=LEADER)
    return _with(order, arriving)


def _with(order: Order, parts: Sequence[object]) -> Order:
    """The order with other things where its tensors, or their shapes, stand."""
    left = iter(parts)

    def put(part: object) -> object:
        return next(left) if isinstance(part, Tensor | _Shape) else part

    edits = tuple(Edit(edit.length, put(edit.nodes)) for edit in order.edits)  # type: ignore[arg-type]
    inputs = tuple(put(part) for part in order.inputs)
    return Order(order.verb, inputs, order.cache, edits, order.forgotten)  # type: ignore[arg-type]
