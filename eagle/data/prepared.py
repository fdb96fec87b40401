"""The directory of prepared rows: held by one process a shard, made with one set of options, and how far it is."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eagle.data.conversations import TokenRow, TokenRowFile
from eagle.data.prepare_config import PrepareConfig
from eagle.data.prompts import Conversation
from eagle.files import claim, only_writer, read_json, remove_leftovers, write_json
from eagle.options import identity
from eagle.seeds import stable_number

SETTINGS = "settings.json"  # what the rows beside it are made with
PLACES = ("prompts", "target")  # options that may name a file or folder


@contextmanager
def held_rows(config: PrepareConfig) -> Iterator[TokenRowFile]:
    """The rows of this shard, held for this process, without what killed ones left.

    Raises ValueError where another process holds them, and where rows beside them were made otherwise.
    """
    output, (index, count) = Path(config.output), config.parts
    name = f"{index}-of-{count}"
    with only_writer(output if count == 1 else output / f".shard-{name}"):
        remove_leftovers(output)
        claim_output(output, config)
        rows = TokenRowFile(output / f"conversations-{name}.jsonl")
        if dropped := rows.mend():
            print(f"{rows.path}: {dropped} damaged or unfinished rows are made again", file=sys.stderr)
        yield rows


def claim_output(output: Path, config: PrepareConfig) -> None:
    """Remember what the rows of `output` are made with. Raises ValueError where those there were made otherwise."""
    path, wanted = output / SETTINGS, identity(config)
    files = [file for file in sorted(output.glob("conversations-*-of-*.jsonl")) if file.stat().st_size]
    if not files:  # a start that failed binds nobody
        write_json(path, wanted)
    for file in files:
        if not file.name.endswith(f"-of-{config.parts[1]}.jsonl"):
            raise ValueError(f"{output} holds {file.name}, this is shard {config.shard}: go on with as many shards")
    if path.is_file():
        known = read_json(path)
        if not isinstance(known, dict):
            raise ValueError(f"{path} is damaged, it holds no settings: restore it, or use another --output")
        wanted |= {name: known[name] for name in PLACES if is_same_place(known.get(name), wanted[name])}
    claim(path, wanted, "use those or another --output")


def is_same_place(known: object, wanted: object) -> bool:
    """Whether both name one file or folder, in other words or before it was moved."""
    if not (isinstance(known, str) and isinstance(wanted, str) and Path(wanted).exists()):
        return False
    if Path(known).exists():
        return Path(known).samefile(wanted)
    return Path(known).name == Path(wanted).resolve().name


class PreparationProgress:
    """Which conversations are done, how many answer tokens they hold, and a line about it now and then."""

    def __init__(self, config: PrepareConfig, rows: TokenRowFile):
        self._shard, count = config.parts
        self._num_shards, self._rows = count, rows
        self.limit = config.max_answer_tokens // count
        self.done: dict[str, tuple[int, int]] = {}  # conversation -> the user turns of its first row
        self.answer_tokens = self._resumed = 0
        for row in rows:
            self._count(row)
        self._resumed, self._start, self._said = self.answer_tokens, time.monotonic(), time.monotonic()

    @property
    def complete(self) -> bool:
        return 0 < self.limit <= self.answer_tokens

    def missing(self, conversations: Iterable[Conversation]) -> Iterator[Conversation]:
        """Those of this shard that are not done. Raises ValueError where the prompts of one that is have changed."""
        for conversation in conversations:
            if stable_number(conversation.id) % self._num_shards != self._shard:
                continue
            if conversation.id not in self.done:
                yield conversation
            elif _digest(conversation.user_turns[: self.done[conversation.id][0]]) != self.done[conversation.id]:
                raise ValueError(
                    f"{self._rows.path} answers another prompt than the one now named {conversation.id!r}: "
                    "the prompts have changed, use another --output"
                )

    def _count(self, row: TokenRow) -> None:
        if row.id == row.conversation:
            self.done[row.id] = _digest([message.get("content") for message in row.messages[::2]])
        self.answer_tokens += row.num_answer_tokens

    def add(self, rows: list[TokenRow]) -> None:
        """Write the rows of a conversation."""
        self._rows.append(*rows)
        for row in rows:
            self._count(row)
        now = time.monotonic()
        if now - self._said > 30:
            self._said, rate = now, (self.answer_tokens - self._resumed) / (now - self._start)
            print(
                f"{len(self.done)} conversations, {self.answer_tokens} answer tokens, {rate:.0f} a second",
                file=sys.stderr,
            )


def _digest(turns: list[Any]) -> tuple[int, int]:
    """How many turns there are, and a number that changes with their text."""
    return len(turns), hash(tuple(map(str, turns)))
