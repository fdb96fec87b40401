"""Conversations to learn from: the packaged ShareGPT, a local file or a ``datasets`` hub name, in one form.

A row holds turns under ``conversations``, ``messages``, ``conversation`` or ``turns``, in ShareGPT's words
(``{"from": "human", "value": ..}``) or OpenAI's (``{"role": "user", "content": ..}``), or a single question under
``prompt``, ``question`` or ``instruction``. What cannot be used is skipped, counted and named.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from eagle.data.prompt_files import Damaged, read_rows
from eagle.packages import SHAREGPT, need

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}
TURNS = ("conversations", "messages", "conversation", "turns")  # keys of turns
QUESTIONS = ("prompt", "question", "instruction")  # keys of what the user says, alone or with an answer beside it
ASKING = ("turns", *QUESTIONS)  # keys under which a text alone is a turn of the user's
ANSWERS = ("completion", "response", "answer", "output")
TEXT_PARTS = (None, "text", "input_text", "output_text")  # types of the parts of a content that are text
PACKAGED = "sharegpt"
FILES = (".json", ".jsonl", ".ndjson", ".parquet", ".gz", ".csv", ".tsv", ".txt")  # names of the hub end in others
SYSTEM_LEFT_OUT = "system prompt of the file: not used, --system sets one for all"


@dataclass(frozen=True)
class Conversation:
    """Turns that begin with the user's; answers may be missing."""

    id: str
    source: str
    messages: tuple[dict[str, str], ...]  # {"role": "user" | "assistant", "content": ..}
    group: str = ""  # the conversation that this one is a piece of: held out as a whole; by default its id
    system: str | None = field(default=None, compare=False)  # what it came with

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.group or group_of(self.source, self.id))

    @property
    def user_turns(self) -> list[str]:
        return [message["content"] for message in self.messages if message["role"] == "user"]

    @property
    def answers(self) -> list[str]:
        return [message["content"] for message in self.messages if message["role"] == "assistant"]


def group_of(source: str, conversation_id: str) -> str:
    """The packaged ShareGPT alone cuts long conversations into pieces, NAME_0, NAME_1 and so on."""
    return conversation_id.rsplit("_", 1)[0] if source == PACKAGED else conversation_id


def load_conversations(name: str, split: str, skipped: Counter[str]) -> Iterator[Conversation]:
    """Usable conversations of ``name``: "sharegpt", a file, or a dataset of the hub."""
    for number, row in enumerate(_rows(name, split)):
        try:
            conversation = parse_conversation(row, name if name == PACKAGED else Path(name).name, number)
        except ValueError as error:
            skipped[str(error)] += 1
            continue
        if conversation.system:
            skipped[SYSTEM_LEFT_OUT] += 1
        yield conversation


def _rows(name: str, split: str) -> Iterator[Any]:
    if name == PACKAGED:
        return read_rows(SHAREGPT.path())
    path = Path(name).expanduser()
    if path.exists() or path.suffix.lower() in FILES or name.startswith((".", "/", "~")) or name.count("/") > 1:
        return read_rows(path)
    return _hub_rows(name, split)


def _hub_rows(name: str, split: str) -> Iterator[Any]:
    datasets = need("datasets")
    repository, _, subset = name.partition(":")
    try:
        yield from datasets.load_dataset(repository, subset or None, split=split, streaming=True)
    except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"no prompts '{name}': no file, and the hub does not give its split '{split}' ({reason})"
        ) from None


def parse_conversation(row: Any, source: str, number: int) -> Conversation:
    """One conversation of any layout; ``ValueError`` names what is wrong with it, without its text."""
    if isinstance(row, Damaged):
        raise ValueError(row.reason)
    row = {"messages": row} if isinstance(row, list) else row
    key, turns = _turns(row)
    messages = [_message(turn) for turn in turns]
    systems = [message["content"] for message in messages if message["role"] == "system"]
    messages = [message for message in messages if message["role"] != "system"]
    _check_order([message["role"] for message in messages], may_ask_only=key in ASKING)
    if isinstance(row.get("system"), str):
        systems.append(row["system"])
    system = "\n".join(text for text in systems if text.strip()) or None
    return Conversation(_id(row, f"{source}-{number}"), source, tuple(messages), system=system)


def _turns(row: Any) -> tuple[str, list[Any]]:
    """The turns of a row, and the key that they stand under."""
    for key in (*TURNS, *QUESTIONS) if isinstance(row, dict) else ():
        if turns := _listed(key, row):
            return key, turns
    keys = TURNS[:2] if isinstance(row, dict) and not row.keys().isdisjoint(TURNS[:2]) else (*TURNS, *QUESTIONS)
    raise ValueError(f"no turns under {', '.join(map(repr, keys[:-1]))} or {keys[-1]!r}")


def _listed(key: str, row: dict[str, Any]) -> list[Any]:
    """What stands under a key, with the answer beside a question; under some a text alone is a turn of the user's."""
    value = row.get(key)
    if key not in ASKING:
        return value if isinstance(value, list) else []
    texts = [value] if isinstance(value, str) else value
    if not texts or not isinstance(texts, list):
        return []
    if key == "instruction" and isinstance(value, str) and isinstance(row.get("input"), str):
        texts = [f"{value}\n\n{row['input']}".strip()]
    turns = [{"role": "user", "content": turn} if isinstance(turn, str) else turn for turn in texts]
    return [*turns, *_answer(row)] if key in QUESTIONS else turns


def _answer(row: dict[str, Any]) -> list[Any]:
    """The answer beside a question: a text, or turns."""
    answer = next((row[key] for key in ANSWERS if row.get(key)), None)
    if isinstance(answer, list):
        return answer
    return [] if answer is None else [{"role": "assistant", "content": answer}]


def _check_order(roles: list[str], may_ask_only: bool) -> None:
    if not roles or roles[0] != "user":
        raise ValueError("does not open with a user turn")
    if may_ask_only and "assistant" not in roles:
        return
    if any(earlier == later for earlier, later in pairwise(roles)):
        raise ValueError("turns do not alternate")


def _message(turn: Any) -> dict[str, str]:
    if not isinstance(turn, dict):
        raise ValueError("a turn is not an object")
    given = turn.get("from") or turn.get("role")
    role = ROLES.get(given.lower()) if isinstance(given, str) else None
    if role is None:
        raise ValueError(f"unknown role {str(given)[:20]!r}")
    content = next((turn[key] for key in ("value", "content", "text") if turn.get(key) is not None), None)
    text = _text(content)
    if not text.strip() and role != "system":
        raise ValueError("an empty turn")
    return {"role": role, "content": text}


def _text(content: Any) -> str:
    """The text of a turn: a text, or a list of parts that are."""
    parts = content if isinstance(content, list) else [content]
    texts = ["" if part is None else _part(part) for part in parts]
    text = "\n".join(texts)
    if not is_unicode(text):
        raise ValueError("a turn holds half a character (a lone surrogate, or bytes that are not UTF-8)")
    return text


def _part(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") in TEXT_PARTS else part
    if not isinstance(text, str):
        raise ValueError("a turn holds more than text, or something else")
    return text


def is_unicode(text: str) -> bool:
    """Whether it can be written down: halves of characters cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _id(row: dict[str, Any], otherwise: str) -> str:
    """The row's own id where it has one that names something."""
    given = row.get("id")
    usable = isinstance(given, str | int | float) and not isinstance(given, bool) and given == given
    return str(given) if usable and str(given).strip() and is_unicode(str(given)) else otherwise


def without_duplicates(
    conversations: Iterable[Conversation], skipped: Counter[str], max_turns: int | None = None
) -> Iterator[Conversation]:
    """Drop what repeats an id or, but for case and spaces, the first ``max_turns`` user turns of an earlier one."""
    ids, texts = set(), set()
    for conversation in conversations:
        text = " ".join(" ".join(conversation.user_turns[:max_turns]).lower().split())
        digest = hashlib.sha256(text.encode()).digest()
        if conversation.id in ids or digest in texts:
            skipped["duplicate id" if conversation.id in ids else "duplicate user turns"] += 1
            continue
        ids.add(conversation.id)
        texts.add(digest)
        yield conversation
