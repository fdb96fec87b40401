"""Work of an accelerator, recorded once and replayed: one launch in place of one for each of its operations.

A recording knows places in memory and no numbers. What it is given is copied to where it reads, and what it computes is
copied from where it writes; what else it reads and writes, as weights and the entries of caches, has to stay where it
was. Shapes are fixed: there is a recording for each.

Letters: C entries that there is room for in a cache, d head size.
"""

from collections.abc import Callable, Hashable, Sequence
from threading import Lock, RLock
from weakref import finalize

import torch
from torch import Tensor

from eagle.engine.cache import GROWTH_BLOCK, PreallocatedLayer

Work = Callable[..., Sequence[Tensor]]
Replay = Callable[[Sequence[Tensor]], list[Tensor]]
Record = Callable[[Work, Sequence[Tensor]], Replay]
"""Records work on inputs of these shapes. The work may be done several times meanwhile, or never."""

WARM_UP = 2  # times that work is done before it is recorded: libraries make what they need at their first call
MOST_FREE = 2  # places that are kept for later sequences


class CudaRecording:
    """A `Replay` by a CUDA graph."""

    def __init__(self, work: Work, inputs: Sequence[Tensor]):
        self._inputs = [one.clone() for one in inputs]
        device = self._inputs[0].device
        with torch.cuda.device(device):
            beside = torch.cuda.Stream(device)
            beside.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(beside):
                for _ in range(WARM_UP):
                    work(*self._inputs)
            torch.cuda.current_stream(device).wait_stream(beside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._outputs = list(work(*self._inputs))

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return [output.clone() for output in self._outputs]


class Recordings:
    """Of one work over the same places, by shapes and by whatever else decides what is done. Threads take turns."""

    def __init__(self, record: Record):
        self._record, self._turn = record, Lock()
        self._made: dict[Hashable, Replay] = {}

    def do(self, key: Hashable, work: Work, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of `work(*inputs)`, replayed where there is a recording of the key."""
        with self._turn:
            if key not in self._made:
                self._made[key] = self._record(work, inputs)
            return self._made[key](inputs)


class Place:
    """Buffers (1, kv_heads, C, d) for all layers of a cache, and what was recorded over them."""

    def __init__(self, layers: Sequence[PreallocatedLayer], capacity: int, record: Record):
        self.capacity, self.recordings = capacity, Recordings(record)
        self.keys = [_room(layer.keys, capacity) for layer in layers]
        self.values = [_room(layer.values, capacity) for layer in layers]

    def fits(self, layers: Sequence[PreallocatedLayer], length: int) -> bool:
        """Whether so many entries of this cache have room here."""
        shapes = [(own.shape[1], own.shape[3]) for own in self.keys]
        return length <= self.capacity and shapes == [(layer.keys.shape[1], layer.keys.shape[3]) for layer in layers]

    def take_in(self, layers: Sequence[PreallocatedLayer]) -> None:
        """The cache goes on here."""
        for layer, keys, values in zip(layers, self.keys, self.values, strict=True):
            layer.move(keys, values)

    def holds(self, layers: Sequence[PreallocatedLayer]) -> bool:
        """Whether it is still here: one that grew by itself is not."""
        return layers[0].keys is self.keys[0]


class Places:
    """One for each cache at work, and those of caches that are gone for the next ones: recordings are dear."""

    def __init__(self, record: Record):
        self._record = record
        self._taken: dict[int, Place] = {}  # by the identity of a cache's first layer
        self._free: list[Place] = []
        self._turn = RLock()

    def of(self, layers: Sequence[PreallocatedLayer], num_new: int) -> Place:
        """The place of a cache, all of whose layers hold as much, with room for so many more entries.

        layers: the cache is moved where it is not there yet.
        """
        first, length = layers[0], layers[0].length + num_new
        with self._turn:
            before = self._taken.get(id(first))
            if before is not None and before.holds(layers) and length <= before.capacity:
                return before
            place = next((one for one in self._free if one.fits(layers, length)), None)
            if place is None:
                place = Place(layers, _capacity(length), self._record)
            else:
                self._free.remove(place)
            place.take_in(layers)
            self._taken[id(first)] = place
            if before is None:
                finalize(first, self._leave, id(first)).atexit = False
            else:
                self._release(before)
            return place

    def _leave(self, key: int) -> None:
        with self._turn:
            self._release(self._taken.pop(key))

    def _release(self, place: Place) -> None:
        if len(self._free) < MOST_FREE:
            self._free.append(place)


def _capacity(length: int) -> int:
    """Doubled, so that a text outgrows few places."""
    blocks = -(-length // GROWTH_BLOCK)
    return GROWTH_BLOCK * max(2, 1 << (blocks - 1).bit_length())


def _room(buffer: Tensor, capacity: int) -> Tensor:
    return buffer.new_zeros(1, buffer.shape[1], capacity, buffer.shape[3])


def bucket(number: int, most: int) -> int:
    """Of as many nodes as are recorded: the next power of two, so that recordings are few."""
    return min(1 << (number - 1).bit_length(), most)


def columns(length: int, capacity: int) -> int:
    """Of as many entries as are attended to: whole blocks, so that little is read in vain."""
    return min(length + -length % GROWTH_BLOCK, capacity)
