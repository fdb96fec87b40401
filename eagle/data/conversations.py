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
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from eagle.files import JsonLines

ANSWER = "eagle-answer-placeholder"  # stands for an answer while the template is rendered


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

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "TokenRow":
        """Raises ValueError where keys are missing or spans are not ordered inside ``input_ids``."""
        missing = cls.__dataclass_fields__.keys() - row.keys()
        if missing:
            raise ValueError(f"a row lacks {', '.join(sorted(missing))}")
        spans = tuple((start, end) for start, end in row["assistant_spans"])
        edges = [edge for span in spans for edge in span]
        if not spans or edges != sorted(edges) or edges[0] < 0 or edges[-1] > len(row["input_ids"]):
            raise ValueError("a row's assistant spans are missing, out of order or beyond its tokens")
        lists = {name: tuple(row[name]) for name in ("messages", "input_ids", "finish")}
        return cls(**{**row, **lists, "assistant_spans": spans})

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
            except json.JSONDecodeError:
                skipped["is not JSON"] += 1
            except ValueError as error:
                skipped[str(error)] += 1


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

    def append(self, row: TokenRow) -> None:
        self._lines.append(asdict(row))


def template_runs(
    tokenizer: PreTrainedTokenizerBase, user_turns: Sequence[str], system: str | None
) -> list[tuple[int, ...]]:
    """Token ids before each answer: the prompt, then what stands between an answer and the next.

    Ends early where the template rewrites what it wrote before, because ids that were generated cannot be kept then.
    Raises ValueError where the template refuses the conversation.
    """
    messages = [] if system is None else [{"role": "system", "content": system}]
    runs: list[tuple[int, ...]] = []
    before = ""
    for turn in user_turns:
        messages.append({"role": "user", "content": turn})
        text = _render(tokenizer, messages, add_generation_prompt=True)
        if not text.startswith(before):
            break
        runs.append(tuple(tokenizer(text[len(before) :], add_special_tokens=False).input_ids))
        before = text + ANSWER
        messages.append({"role": "assistant", "content": ANSWER})
    return runs


def end_of_turn(tokenizer: PreTrainedTokenizerBase, end_ids: frozenset[int]) -> tuple[int, ...]:
    """The end-of-text id that the template writes behind an answer, as one token or none."""
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": ANSWER}]
    behind = _render(tokenizer, messages, add_generation_prompt=False).partition(ANSWER)[2]
    return tuple(token for token in tokenizer(behind, add_special_tokens=False).input_ids[:1] if token in end_ids)


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
    except TemplateError as error:
        raise ValueError(f"the chat template refuses it: {error}") from None
