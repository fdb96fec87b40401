"""Conversations in memory, and the order in which they are trained on.

Batches hold conversations of similar length, padded on the right: attention is causal, so padding needs no mask and
costs only what little is left of it. Packed batches hold conversations of any length behind each other in one row, each
a segment that attends to itself alone. The plan of an epoch is a function of lengths, seed and epoch: a run that is
resumed, or divided among processes, walks through the same batches.

Letters: B conversations of a batch, T positions.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from eagle.data.conversations import read_conversations

POOL_BATCHES = 32  # batches are cut from pools of about this many: equal lengths inside, random order across
LENGTH_MULTIPLE = 32  # few shapes, because kernels are prepared for each


Segments = tuple[int, ...] | None
"""Lengths of the conversations in the one row of a packed batch, its padding the last; None: a conversation a row."""


@dataclass(frozen=True, eq=False)
class Example:
    """A conversation, compact."""

    id: str
    ids: Tensor  # (T,) int32
    loss_mask: Tensor  # (T,) bool, True on the target's own tokens, unshifted
    group: str = ""  # examples of one are never parted by a split; by default the id

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.group or self.id)

    def __len__(self) -> int:
        return self.ids.numel()

    def first(self, length: int) -> "Example":
        """The conversation cut to its first `length` tokens."""
        return Example(self.id, self.ids[:length], self.loss_mask[:length], self.group)


@dataclass(frozen=True, eq=False)
class Batch:
    """Conversations, padded on the right with token 0 outside the loss mask."""

    ids: Tensor  # (B, T) int64
    loss_mask: Tensor  # (B, T) bool, unshifted
    names: tuple[str, ...]  # ids of the conversations
    segments: Segments = None

    def to(self, device: torch.device) -> "Batch":
        return replace(self, ids=self.ids.to(device), loss_mask=self.loss_mask.to(device))


def read_examples(path: str | Path, max_length: int, vocab_size: int) -> tuple[list[Example], Counter[str]]:
    """The usable conversations of a prepared file or directory, and why others were skipped.

    Raises ValueError when none is left.
    """
    skipped: Counter[str] = Counter()
    rows = read_conversations(Path(path), max_length, vocab_size, skipped)
    examples: dict[str, Example] = {}
    for row in rows:
        if row.id in examples:
            skipped["has the id of an earlier row"] += 1
        else:
            ids = torch.tensor(row.input_ids, dtype=torch.int32)
            examples[row.id] = Example(row.id, ids, row.loss_mask, row.group)
    if not examples:
        raise ValueError(f"{path} holds no usable conversation; skipped: {dict(skipped) or 'nothing, it is empty'}")
    return list(examples.values()), skipped


def split_held_out(examples: Sequence[Example], count: int) -> tuple[list[Example], list[Example]]:
    """Training and held-out conversations, the latter `count` of them or, where some belong together, a few more.

    Which are held out depends on their names and prompts, not on file order.
    """
    if count >= len(examples):
        raise ValueError(f"num_held_out is {count}, there are {len(examples)} conversations: hold out fewer")
    names = together(examples)
    sizes, chosen, total = Counter(names), set[str](), 0
    for name in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if total >= count:
            break
        chosen.add(name)
        total += sizes[name]
    held_out = [example for example, name in zip(examples, names, strict=True) if name in chosen]
    return apart_from(held_out, examples), held_out


def apart_from(held_out: Sequence[Example], examples: Sequence[Example]) -> list[Example]:
    """The examples that share neither conversation nor prompt with a held-out one. Raises ValueError where none is."""
    names = together([*held_out, *examples])
    chosen = set(names[: len(held_out)])
    training = [example for example, name in zip(examples, names[len(held_out) :], strict=True) if name not in chosen]
    if not training:
        raise ValueError(
            f"all {len(examples)} conversations are pieces or repetitions of {len(held_out)} held-out ones: "
            "nothing is left to train on, bring more data"
        )
    return training


def together(examples: Sequence[Example]) -> list[str]:
    """For every example the name of those that it must not be parted from: of its conversation, or asked the same."""
    joined: dict[str, str] = {}

    def root(name: str) -> str:
        while joined.setdefault(name, name) != name:
            name = joined[name]
        return name

    for example in examples:
        prompt = hashlib.sha256(example.ids[~example.loss_mask].numpy().tobytes()).hexdigest()
        first, second = sorted((root(example.group), root(f"\U0010ffff{prompt}")))  # names of groups come first
        joined[second] = first
    return [root(example.group) for example in examples]


def plan_epoch(
    lengths: Sequence[int], tokens_per_batch: int, seed: int, epoch: int, packed: bool = False
) -> list[tuple[int, ...]]:
    """The batches of one epoch as tuples of example numbers, none above `tokens_per_batch` with its padding."""
    order = list(range(len(lengths)))
    random = Random(f"{seed}/{epoch}")
    random.shuffle(order)
    if packed:
        return _filled(order, lengths, tokens_per_batch)
    batches: list[tuple[int, ...]] = []
    for pool in _pools(order, lengths, POOL_BATCHES * tokens_per_batch):
        batches += _cut(sorted(pool, key=lambda i: (lengths[i], i)), lengths, tokens_per_batch)
    random.shuffle(batches)
    return batches


def collate(examples: Sequence[Example], rows: Iterable[int], packed: bool = False) -> Batch:
    """The batch of the given examples."""
    rows = tuple(rows)
    if packed:
        return pack_row([examples[row] for row in rows])
    length = padded_length(max(len(examples[row]) for row in rows))
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    loss_mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(examples[row])] = examples[row].ids
        loss_mask[place, : len(examples[row])] = examples[row].loss_mask
    return Batch(ids, loss_mask, tuple(examples[row].id for row in rows))


def pack_row(examples: Sequence[Example]) -> Batch:
    """The examples behind each other in one row."""
    lengths = [len(example) for example in examples]
    padding = padded_length(sum(lengths)) - sum(lengths)
    ids = torch.cat([example.ids.long() for example in examples])
    loss_mask = torch.cat([example.loss_mask for example in examples])
    loss_mask[torch.tensor([0, *lengths[:-1]]).cumsum(0)] = False  # no law of the conversation stands before its start
    ids, loss_mask = (torch.nn.functional.pad(x, (0, padding)) for x in (ids, loss_mask))
    return Batch(ids[None], loss_mask[None], tuple(example.id for example in examples), (*lengths, padding))


def padded_length(length: int) -> int:
    return -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def data_fingerprint(examples: Iterable[Example]) -> str:
    """Changes when any token or mask of the data changes."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.id.encode() + example.ids.numpy().tobytes() + example.loss_mask.numpy().tobytes())
    return digest.hexdigest()


def _filled(order: list[int], lengths: Sequence[int], tokens: int) -> list[tuple[int, ...]]:
    """Examples in this order, a new batch where the next one would not fit."""
    batches: list[tuple[int, ...]] = []
    batch: list[int] = []
    for index in order:
        if batch and padded_length(sum(lengths[i] for i in batch) + lengths[index]) > tokens:
            batches.append(tuple(batch))
            batch = []
        batch.append(index)
    return [*batches, tuple(batch)] if batch else batches


def _pools(order: list[int], lengths: Sequence[int], tokens: int) -> Iterable[list[int]]:
    pool: list[int] = []
    size = 0
    for index in order:
        pool.append(index)
        size += lengths[index]
        if size >= tokens:
            yield pool
            pool, size = [], 0
    if pool:
        yield pool


def _cut(ordered: list[int], lengths: Sequence[int], tokens: int) -> list[tuple[int, ...]]:
    """Neighbours in `ordered` (ascending lengths) together, as many as fit."""
    batches: list[tuple[int, ...]] = []
    batch: list[int] = []
    for index in ordered:
        if batch and (len(batch) + 1) * padded_length(lengths[index]) > tokens:
            batches.append(tuple(batch))
            batch = []
        batch.append(index)
    return [*batches, tuple(batch)]
