"""Stored features: the target reads every conversation once, training reads the result as often as it likes.

A directory holds `target.json` and `target.safetensors` (see `eagle.training.target_snapshot`), shards of a batch
each, and manifests that name the conversations of every shard. A shard is listed after it is on disk, so an
interrupted writer goes on where it was; each process writes its own manifest and finds what the others wrote. A shard
or a line of a manifest that was damaged holds nothing: its conversations are read by the target again.

    shard    ids (N,)  loss_mask (N,)  features (N, 3H)        of N tokens, conversations behind each other, unshifted
             states (M, H)  log_normaliser (M,)  best (M,)     of the M positions whose law is a training target

Letters: B batch, T positions, H target hidden size, N tokens and M law positions of a shard, P positions with a loss.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eagle.data.batches import Batch, Example, collate
from eagle.files import JsonLines, atomic_file
from eagle.training.signals import LawStates, Signals, SignalSource
from eagle.training.steps import law_positions
from eagle.training.target_snapshot import TargetFacts

BYTES_A_LAW = 8  # normaliser and best token
BYTES_A_TOKEN = 5  # id and mask
MAX_OPEN = 200  # files; the usual limit of a process is 1024
UNREADABLE = (SafetensorError, OSError, ValueError, TypeError, KeyError)  # what damaged shards and lines raise


class Place(NamedTuple):
    """Where a conversation is stored."""

    shard: str
    tokens: slice
    laws: slice
    group: str


class FeatureStore:
    """One directory of stored features. `writer` names this process's manifest."""

    def __init__(self, directory: str | Path, writer: int = 0):
        self.directory = Path(directory)
        self._writer = f"{writer:03d}"
        self._manifest = JsonLines(self.directory / f"manifest-{self._writer}.jsonl")
        self._places: dict[str, Place] = {}
        self._damaged: dict[str, str] = {}  # conversations listed in a damaged shard -> the shard
        self._read_lines: dict[Path, int] = {}
        self._open: dict[str, safe_open] = {}
        self.refresh()

    def refresh(self) -> None:
        """Learn of the shards written since the last look, by anyone."""
        for path in sorted(self.directory.glob("manifest-*.jsonl")):
            lines = list(JsonLines(path).lines())
            for line in lines[self._read_lines.get(path, 0) :]:
                self._learn(line)
            self._read_lines[path] = len(lines)

    def __contains__(self, example_id: str) -> bool:
        return example_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def write(self, examples: Sequence[Example], signals: Signals) -> None:
        """Add a batch: `signals` of these conversations in this order, with laws at all law positions."""
        kept = [slice(0, len(example)) for example in examples]
        tensors = {
            "ids": torch.cat([example.ids for example in examples]),
            "loss_mask": torch.cat([example.loss_mask for example in examples]),
            "features": torch.cat([signals.features[row, rows] for row, rows in enumerate(kept)]),
            **{name: value for name, value in signals.laws._asdict().items() if name != "best"},
            "best": signals.laws.best.int(),
        }
        name = self._next_shard()
        with atomic_file(self.directory / name) as temporary:
            save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, temporary)
        self._manifest.append({"file": name, "conversations": [[e.id, len(e), num_laws(e), e.group] for e in examples]})

    def damage(self, names: Iterable[str]) -> str:
        """What to say of conversations that are not there: nothing, or which damaged shard held one of them."""
        shard = next((self._damaged[name] for name in names if name in self._damaged), None)
        return "" if shard is None else f" (its shard {self.directory / shard} is damaged)"

    def examples(self) -> list[Example]:
        """All stored conversations, in the order of their ids. Raises ValueError where some were in a damaged shard."""
        if lost := sorted(self._damaged.keys() - self._places.keys()):
            raise ValueError(
                f"{len(lost)} conversations have no stored features, as {lost[0]}{self.damage(lost)}: "
                "write them again with `eagle-hsd features`"
            )
        return [self._example(name) for name in sorted(self._places)]

    def features(self, example: Example) -> Tensor:
        """(n, 3H) of a conversation, or of its beginning: attention is causal, so a cut one has the same features.

        Raises ValueError when something else was stored under its id.
        """
        shard, tokens, *_ = self._places[example.id]
        rows = slice(tokens.start, tokens.start + len(example))
        stored = self._read(shard, "ids", rows)
        if not torch.equal(stored, example.ids):
            raise ValueError(
                f"{self.directory} holds other or fewer tokens for conversation {example.id} than the data: "
                "the features are of other data or were cut shorter; write them to another directory"
            )
        return self._read(shard, "features", rows)

    def laws(self, example: Example) -> LawStates:
        place = self._places[example.id]
        rows = slice(place.laws.start, place.laws.start + num_laws(example))
        return LawStates(*(self._read(place.shard, name, rows) for name in LawStates._fields))

    def _example(self, name: str) -> Example:
        place = self._places[name]
        ids, loss_mask = (self._read(place.shard, key, place.tokens) for key in ("ids", "loss_mask"))
        return Example(name, ids, loss_mask, place.group)

    def _next_shard(self) -> str:
        """A name behind all that are taken: shards may be missing in between."""
        taken = (path.stem.rpartition("-")[2] for path in self.directory.glob(f"shard-{self._writer}-*.safetensors"))
        number = max((int(digits) for digits in taken if digits.isdecimal()), default=-1) + 1
        return f"shard-{self._writer}-{number:06d}.safetensors"

    def _learn(self, line: str) -> None:
        """Note the conversations of a manifest's line: where they are, or that they are lost."""
        try:
            shard, places = _places_in(line)
        except UNREADABLE:
            return
        if self._holds(shard, places):
            self._places.update(places)
        else:
            self._damaged.update(dict.fromkeys(places, shard))

    def _holds(self, shard: str, places: dict[str, Place]) -> bool:
        """Whether the shard is whole: a kill, a full disk or a copy may have left a part of it."""
        try:
            file = self._shard(shard)
            for kind, name in (("tokens", "ids"), ("laws", "states")):
                end = max(getattr(place, kind).stop for place in places.values())
                if file.get_slice(name).get_shape()[0] < end:  # type: ignore[no-untyped-call]
                    return False
        except UNREADABLE:
            return False
        return True

    def _read(self, shard: str, name: str, rows: slice) -> Tensor:
        part: Tensor = self._shard(shard).get_slice(name)[rows]  # type: ignore[no-untyped-call]
        return part

    def _shard(self, name: str) -> safe_open:
        if name not in self._open:
            if len(self._open) >= MAX_OPEN:
                self._open.clear()
            self._open[name] = safe_open(self.directory / name, framework="pt")
        return self._open[name]


class StoredSignals:
    """Signals from a store. With `online` what is missing is computed and stored, without it that is an error."""

    def __init__(
        self,
        store: FeatureStore,
        facts: TargetFacts,
        examples: dict[str, Example],
        online: SignalSource | None = None,
    ):
        self._store, self._facts, self._examples, self._online = store, facts, examples, online

    @torch.no_grad()
    def read(self, batch: Batch, at: Tensor) -> Signals:
        if any(name not in self._store for name in batch.names):
            self._store.refresh()
        missing = [name for name in batch.names if name not in self._store]
        if missing:
            self._fill(missing, at.device)
        features = [self._store.features(self._examples[name]) for name in batch.names]
        if batch.segments is not None:
            features = [torch.cat(features)]
        padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)  # (B, longest, 3H)
        padded = torch.nn.functional.pad(padded, (0, 0, 0, batch.ids.shape[1] - padded.shape[1]))  # (B, T, 3H)
        embeddings = self._facts.tensors["embedding"][batch.ids]
        return Signals(padded.to(at.device), embeddings, self._laws(batch, at), batch.segments)

    def _laws(self, batch: Batch, at: Tensor) -> LawStates:
        """The stored laws of all law positions, cut to those asked for."""
        stored = [self._store.laws(self._examples[name]) for name in batch.names]
        chosen = at[law_positions(batch.loss_mask)]  # (all law positions of the batch,)
        return LawStates(*(torch.cat(parts).to(at.device)[chosen] for parts in zip(*stored, strict=True)))

    def _fill(self, missing: list[str], device: torch.device) -> None:
        if self._online is None:
            raise ValueError(
                f"{len(missing)} conversations have no stored features, as {missing[0]}{self._store.damage(missing)}: "
                "write them with `eagle-hsd features`, or set fill_features"
            )
        examples = [self._examples[name] for name in missing]
        batch = collate(examples, range(len(examples))).to(device)
        self._store.write(examples, self._online.read(batch, law_positions(batch.loss_mask)))
        self._store.refresh()


def _places_in(line: str) -> tuple[str, dict[str, Place]]:
    """A shard's name and its conversations, behind each other in the manifest's order."""
    entry, token, law = json.loads(line), 0, 0
    places: dict[str, Place] = {}
    for name, num_tokens, num_laws, *group in entry["conversations"]:
        tokens, laws = slice(token, token + num_tokens), slice(law, law + num_laws)
        places[str(name)] = Place(str(entry["file"]), tokens, laws, *(group or [str(name)]))
        token, law = tokens.stop, laws.stop
    return str(entry["file"]), places


def num_laws(example: Example) -> int:
    return int(law_positions(example.loss_mask[None]).sum())


def store_bytes(examples: Iterable[Example], facts: TargetFacts) -> int:
    """What the features of these conversations will take on disk."""
    state_bytes = facts.sizes.hidden_size * facts.tensors["embedding"].element_size()
    tokens = laws = 0
    for example in examples:
        tokens, laws = tokens + len(example), laws + num_laws(example)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in facts.tensors.values())
    return tokens * (3 * state_bytes + BYTES_A_TOKEN) + laws * (state_bytes + BYTES_A_LAW) + weights
