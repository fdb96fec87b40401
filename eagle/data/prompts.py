"""Conversations to learn from: the packaged ShareGPT, a local file or a ``datasets`` hub name, in one form.

Two layouts are read, ShareGPT (``{"id", "conversations": [{"from": "human", "value": ..}]}``) and OpenAI messages
(``{"messages": [{"role": "user", "content": ..}]}``). What cannot be used is skipped, counted and named.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from eagle.packages import SHAREGPT

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant"}


@dataclass(frozen=True)
class Conversation:
    """Turns that begin with the user's and alternate; answers may be missing."""

    id: str
    source: str
    messages: tuple[dict[str, str], ...]  # {"role": "user" | "assistant", "content": ..}

    @property
    def user_turns(self) -> list[str]:
        return [message["content"] for message in self.messages if message["role"] == "user"]

    @property
    def answers(self) -> list[str]:
        return [message["content"] for message in self.messages if message["role"] == "assistant"]


def load_conversations(name: str, split: str, skipped: Counter[str]) -> Iterator[Conversation]:
    """Usable conversations of ``name``: "sharegpt", a ``.jsonl``/``.json`` file, or a dataset of the hub."""
    for number, row in enumerate(_rows(name, split)):
        try:
            yield parse_conversation(row, name if name == "sharegpt" else Path(name).name, number)
        except ValueError as error:
            skipped[str(error)] += 1


def _rows(name: str, split: str) -> Iterator[Any]:
    if name == "sharegpt":
        return decode_array(SHAREGPT.path().read_text(encoding="utf-8"))
    path = Path(name)
    if path.suffix == ".jsonl":
        return _jsonl(path)
    if path.suffix == ".json":
        return decode_array(path.read_text(encoding="utf-8"))
    return _hub(name, split)


def _jsonl(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} line {number} is not JSON ({error.msg}): one object a line") from None


def _hub(name: str, split: str) -> Iterator[Any]:
    from datasets import load_dataset  # slow to import, and only some users need it

    yield from load_dataset(name, split=split, streaming=True)


def decode_array(text: str) -> Iterator[Any]:
    """The objects of a JSON array, one by one; a file cut at its end gives what came before the cut."""
    decoder, position = json.JSONDecoder(), text.find("[") + 1
    while True:
        while position < len(text) and text[position] in ", \r\n\t":
            position += 1
        try:
            row, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError:
            return
        yield row


def parse_conversation(row: Any, source: str, number: int) -> Conversation:
    """One conversation of either layout; ``ValueError`` names what is wrong with it, without its text."""
    turns = row.get("conversations") or row.get("messages") if isinstance(row, dict) else None
    if not isinstance(turns, list) or not turns:
        raise ValueError("no turns under 'conversations' or 'messages'")
    messages = [_message(turn) for turn in turns]
    messages = [message for message in messages if message["role"] != "system"]
    if not messages or messages[0]["role"] != "user":
        raise ValueError("does not open with a user turn")
    for earlier, later in pairwise(messages):
        if earlier["role"] == later["role"]:
            raise ValueError("turns do not alternate")
    return Conversation(str(row.get("id", f"{source}-{number}")), source, tuple(messages))


def _message(turn: Any) -> dict[str, str]:
    if not isinstance(turn, dict):
        raise ValueError("a turn is not an object")
    role, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if role != "system" and role not in ROLES:
        raise ValueError(f"unknown role {role!r}")
    if not isinstance(content, str) or not content.strip():
        raise ValueError("an empty turn")
    return {"role": ROLES.get(role, "system"), "content": content}


def without_duplicates(conversations: Iterable[Conversation], skipped: Counter[str]) -> Iterator[Conversation]:
    """Drop what repeats an id or, but for case and spaces, the user turns of an earlier conversation."""
    ids, texts = set(), set()
    for conversation in conversations:
        text = " ".join(" ".join(conversation.user_turns).lower().split())
        digest = hashlib.sha256(text.encode()).digest()
        if conversation.id in ids or digest in texts:
            skipped["duplicate id" if conversation.id in ids else "duplicate user turns"] += 1
            continue
        ids.add(conversation.id)
        texts.add(digest)
        yield conversation
