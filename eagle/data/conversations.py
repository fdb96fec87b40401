"""Rows of training data: a conversation as token ids with the spans that the target's answers cover.

    <|im_start|>system .. user .. <|im_start|>assistant\\n  Hello!<|im_end|>  \\n<|im_start|>user ..  Bye<|im_end|>
    |-------------------- run 0 ------------------------|-- span 0 -----|------- run 1 ---------|-- span 1 --|

The runs come from the chat template, as text; the answers never go through it, so that ``input_ids`` holds the very
ids which the target wrote and will see again when it serves.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from eagle.data.prompts import group_of
from eagle.files import JsonLines
from eagle.prompting import Message, encode_prompt, render_prompt

ANSWER = "eagle-answer-placeholder"  # stands for an answer while the template is rendered
KINDS: dict[str, tuple[type, ...]] = {
    "id": (str, int),
    "source": (str,),
    "temperature": (int, float, NoneType),
    "seed": (int,),
    "messages": (list,),
    "input_ids": (list,),
    "assistant_spans": (list,),
    "finish": (list,),
    "conversation": (str,),
    "group": (str,),
}  # of a row's fields in JSON


@dataclass(frozen=True)
class TokenRow:
    """A conversation to train on; one line of JSON on disk."""

    id: str
    source: str
    temperature: float | None  # None: the answers came with the conversation
    seed: int
    messages: tuple[dict[str, str], ...]  # {"role": "user" | "assistant", "content": ..}
    input_ids: tuple[int, ...]
    assistant_spans: tuple[tuple[int, int], ...]  # [start, end) of each answer, with its end of turn if it has one
    finish: tuple[str, ...]  # "stop" or "length" (cut), one an answer
    conversation: str = ""  # its id; that of its first row, and the default
    group: str = ""  # rows that must not be parted by a split have one name; by default that of the conversation

    def __post_init__(self) -> None:
        object.__setattr__(self, "conversation", self.conversation or self.id)
        object.__setattr__(self, "group", self.group or group_of(self.source, self.conversation))

    @classmethod
    def from_json(cls, row: Any) -> "TokenRow":
        """Raises ValueError where fields are missing or of another kind, or spans not ordered inside ``input_ids``."""
        if not isinstance(row, dict):
            raise ValueError("a row is not an object")
        row = {"conversation": "", "group": ""} | row
        if missing := KINDS.keys() - row.keys():
            raise ValueError(f"a row lacks {', '.join(sorted(missing))}")
        for name, kind in KINDS.items():
            if not isinstance(row[name], kind) or isinstance(row[name], bool):
                raise ValueError(f"a row's {name} is of type {type(row[name]).__name__}")
        if not all(isinstance(message, dict) for message in row["messages"]):
            raise ValueError("a row's messages are not all objects")
        _check_tokens(row["input_ids"], row["assistant_spans"])
        spans = tuple((start, end) for start, end in row["assistant_spans"])
        lists = {name: tuple(row[name]) for name in ("messages", "input_ids", "finish")}
        return cls(**{name: row[name] for name in KINDS} | lists | {"id": str(row["id"]), "assistant_spans": spans})

    @property
    def num_answer_tokens(self) -> int:
        return sum(end - start for start, end in self.assistant_spans)

    @property
    def loss_mask(self) -> torch.Tensor:
        """True on the tokens that the target wrote: (T,) bool, of ``input_ids`` and not shifted."""
        mask = torch.zeros(len(self.input_ids), dtype=torch.bool)
        for start, end in self.assistant_spans:
            mask[start:end] = True
        return mask

    def first(self, length: int) -> "TokenRow":
        """The row cut to its first ``length`` tokens; ``messages`` stay whole."""
        spans = tuple((start, min(end, length)) for start, end in self.assistant_spans if start < length)
        return replace(self, input_ids=self.input_ids[:length], assistant_spans=spans, finish=self.finish[: len(spans)])


def read_conversations(path: Path, max_length: int, vocab_size: int, skipped: Counter[str]) -> Iterator[TokenRow]:
    """The rows of a prepared file, or of all ``conversations*.jsonl`` of a directory, in the order of their names.

    Rows are cut to ``max_length`` tokens; what is then left without an answer, and what does not belong to a target
    with ``vocab_size`` tokens, is counted in ``skipped``. Raises FileNotFoundError where there is nothing to read.
    """
    files = sorted(path.glob("conversations*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"no conversations at {path}: make some with `eagle-hsd prepare`")
    for file in files:
        for text in JsonLines(file).lines():
            try:
                yield _fitting(TokenRow.from_json(json.loads(text)), max_length, vocab_size)
            except (json.JSONDecodeError, RecursionError):
                skipped["is not JSON"] += 1
            except ValueError as error:
                skipped[str(error)] += 1


def _check_tokens(ids: list[Any], spans: list[Any]) -> None:
    if not all(type(token) is int for token in ids):
        raise ValueError("a row's input_ids are not all whole numbers")
    edges: list[Any] = [
        edge for span in spans for edge in (span if isinstance(span, list) and len(span) == 2 else [None])
    ]
    if not edges or not all(type(edge) is int for edge in edges):
        raise ValueError("a row's assistant spans are not pairs of whole numbers")
    if edges != sorted(edges) or edges[0] < 0 or edges[-1] > len(ids) or not ids:
        raise ValueError("a row's assistant spans are missing, out of order or beyond its tokens")


def _fitting(row: TokenRow, max_length: int, vocab_size: int) -> TokenRow:
    if not 0 <= min(row.input_ids) <= max(row.input_ids) < vocab_size:
        raise ValueError(f"has tokens outside 0..{vocab_size - 1}: was it made for another target?")
    cut = row.first(max_length)
    if not cut.num_answer_tokens:
        raise ValueError(f"has no answer within {max_length} tokens")
    return cut


class TokenRowFile:
    """Rows on disk that survive a kill; the file is there from the start."""

    def __init__(self, path: Path):
        self.path = path
        self._lines = JsonLines(path)
        self._lines.append()

    def __iter__(self) -> Iterator[TokenRow]:
        return map(TokenRow.from_json, self._lines.read())

    def append(self, *rows: TokenRow) -> None:
        """Add the rows of one conversation, its first row last: where that one stands, none is missing."""
        self._lines.append(*map(asdict, reversed(rows)))

    def mend(self) -> int:
        """Drop lines that are no row, and rows of conversations that were not finished; returns how many."""
        found = [_names(line) for line in self._lines.lines()]
        ids = {names[0] for names in found if names}
        kept = [names is not None and names[1] in ids for names in found]
        if not all(kept):
            whole = [line for line, keep in zip(self._lines.lines(), kept, strict=True) if keep]
            self._lines.replace(map(json.loads, whole))
        return len(kept) - sum(kept)


def _names(line: str) -> tuple[str, str] | None:
    """The ids of a line's row and of its conversation; None for a line that is no row."""
    try:
        row = TokenRow.from_json(json.loads(line))
    except (ValueError, RecursionError):
        return None
    return row.id, row.conversation


@dataclass(frozen=True)
class Prompts:
    """The prompts that serving sends: a tokenizer, its template or FastChat's, and the system prompt."""

    tokenizer: PreTrainedTokenizerBase
    system: str | None = None
    template: str | None = None

    def text(self, turns: Sequence[str], answers: Sequence[str], add_generation_prompt: bool = True) -> str:
        """The conversation up to its last turn, or its last answer. Raises ValueError where the template refuses it."""
        spoken = [("user", turn) for turn in turns]
        for place, answer in enumerate(answers):
            spoken.insert(2 * place + 1, ("assistant", answer))
        system = [] if self.system is None else [("system", self.system)]
        messages: list[Message] = [{"role": role, "content": content} for role, content in (*system, *spoken)]
        return render_prompt(self.tokenizer, messages, self.template, add_generation_prompt)

    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(encode_prompt(self.tokenizer, text))


def template_runs(
    tokenizer: PreTrainedTokenizerBase, user_turns: Sequence[str], system: str | None, template: str | None = None
) -> list[tuple[int, ...]]:
    """Token ids before each answer: the prompt, then what stands between an answer and the next.

    Ends early where the template rewrites what it wrote before, because ids that were generated cannot be kept then,
    and before a later turn that it refuses. Raises ValueError where it refuses the first.
    """
    prompts = Prompts(tokenizer, system, template)
    runs: list[tuple[int, ...]] = []
    before = ""
    for number in range(len(user_turns)):
        try:
            text = prompts.text(user_turns[: number + 1], [ANSWER] * number)
        except ValueError:
            if not runs:
                raise
            break
        if not text.startswith(before):
            break
        runs.append(prompts.ids(text[len(before) :]))
        before = text + ANSWER
    return runs


def end_of_turn(
    tokenizer: PreTrainedTokenizerBase, end_ids: frozenset[int], template: str | None = None
) -> tuple[int, ...]:
    """The end-of-text id that the template writes behind an answer, as one token or none."""
    prompts = Prompts(tokenizer, template=template)
    behind = prompts.text(["x"], [ANSWER], add_generation_prompt=False).partition(ANSWER)[2]
    return tuple(token for token in prompts.ids(behind)[:1] if token in end_ids)
