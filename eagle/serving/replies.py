"""Answers -> bodies in OpenAI's form: of a chat and of plain text, whole and as chunks of a stream.

Whole and streamed answers are made of the same deltas: a whole one is their sum.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from eagle.decode import Finish
from eagle.logprobs import TokenLogprob
from eagle.serving.events import Delta, Usage
from eagle.serving.spelling import Spelling
from eagle.serving.work import Ask


@dataclass
class Said:
    """One answer so far."""

    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)
    finish: Finish | None = None
    begun: bool = False  # whether a stream has told of it
    ids: list[int] = field(default_factory=list)
    num_told: int = 0  # characters of tokens whose log-probabilities a stream has told

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.tokens += delta.tokens
        self.ids += delta.ids
        self.finish = delta.finish or self.finish


@dataclass(frozen=True)
class Form:
    """How a route writes: what differs between a chat and plain text."""

    prefix: str  # of ids
    whole: str  # object of a whole answer
    chunk: str  # object of a chunk
    message: Callable[[Said], dict[str, Any]]
    delta: Callable[[str], dict[str, Any]]
    opening: dict[str, Any] | None  # of a choice's first chunk
    logprobs: Callable[[Sequence[TokenLogprob], Spelling, int], dict[str, Any]]


def chat_logprobs(tokens: Sequence[TokenLogprob], spelling: Spelling, start: int) -> dict[str, Any]:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        return {"token": spelling.text(token), "logprob": logprob, "bytes": list(spelling.bytes(token))}

    rows = ((entry(said.token, said.logprob), [entry(*one) for one in said.top]) for said in tokens)
    return {"content": [{**own, "top_logprobs": top} for own, top in rows], "refusal": None}


def text_logprobs(tokens: Sequence[TokenLogprob], spelling: Spelling, start: int) -> dict[str, Any]:
    """`start`: characters of the answer before the first of these tokens."""
    offsets = []
    for said in tokens:
        offsets.append(start)
        start += len(spelling.text(said.token))
    return {
        "tokens": [spelling.text(said.token) for said in tokens],
        "token_logprobs": [said.logprob for said in tokens],
        "top_logprobs": [{spelling.text(token): number for token, number in said.top} for said in tokens],
        "text_offset": offsets,
    }


CHAT = Form(
    "chatcmpl-",
    "chat.completion",
    "chat.completion.chunk",
    lambda said: {"message": {"role": "assistant", "content": said.text, "refusal": None}},
    lambda text: {"delta": {"content": text} if text else {}},
    {"delta": {"role": "assistant", "content": ""}},
    chat_logprobs,
)
TEXT = Form(
    "cmpl-",
    "text_completion",
    "text_completion",
    lambda said: {"text": said.text},
    lambda text: {"text": text},
    None,
    text_logprobs,
)


class Reply:
    """Bodies of one request: `add` deltas as they come."""

    def __init__(self, form: Form, model: str, fingerprint: str, ask: Ask, spelling: Spelling, token_ids: bool = False):
        """token_ids: of prompts and answers are told too."""
        self._form, self._spelling, self._ask, self._token_ids = form, spelling, ask, token_ids
        self._said = [Said() for _ in ask.seeds]
        self._head = {
            "id": form.prefix + secrets.token_hex(16),
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def add(self, delta: Delta) -> None:
        self._said[delta.choice].add(delta)

    def whole(self, usage: Usage) -> dict[str, Any]:
        """The body that is not streamed, of all that was added."""
        choices = [
            {
                "index": index,
                **self._form.message(said),
                **self._ending(said.tokens, 0, said.finish),
                **self._ids(index, said.ids, opens=True),
            }
            for index, said in enumerate(self._said)
        ]
        return {"object": self._form.whole, **self._head, "choices": choices, "usage": told_usage(usage)}

    def chunks(self, delta: Delta, wants_usage: bool) -> Iterator[dict[str, Any]]:
        """What a stream sends for a delta; nothing where there is nothing new to read."""
        said, form = self._said[delta.choice], self._form
        head = {"object": form.chunk, **self._head, **({"usage": None} if wants_usage else {})}
        if not said.begun and form.opening is not None:
            yield {**head, "choices": [{"index": delta.choice, **form.opening, **self._ending((), 0, None)}]}
        ids = self._ids(delta.choice, delta.ids, opens=not said.begun)
        said.begun = True
        if delta.text or delta.tokens or ids:
            ending = self._ending(delta.tokens, said.num_told, None)
            yield {**head, "choices": [{"index": delta.choice, **form.delta(delta.text), **ending, **ids}]}
            said.num_told += sum(len(self._spelling.text(one.token)) for one in delta.tokens)
        if delta.finish is not None:
            yield {**head, "choices": [{"index": delta.choice, **form.delta(""), **self._ending((), 0, delta.finish)}]}

    def last(self, usage: Usage) -> dict[str, Any]:
        """The chunk behind all others, where the usage was asked for."""
        return {"object": self._form.chunk, **self._head, "choices": [], "usage": told_usage(usage)}

    def _ids(self, choice: int, ids: Sequence[int], opens: bool) -> dict[str, Any]:
        """Those of a choice, where they were asked for; of its prompt where it `opens`."""
        if not self._token_ids:
            return {}
        prompt = self._ask.prompts[choice // self._ask.num_answers]
        return {"token_ids": list(ids), **({"prompt_token_ids": list(prompt)} if opens else {})}

    def _ending(self, tokens: Sequence[TokenLogprob], start: int, finish: Finish | None) -> dict[str, Any]:
        told = self._form.logprobs(tokens, self._spelling, start) if tokens else None
        return {"logprobs": told, "finish_reason": "length" if finish == "context" else finish}


def told_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.answer,
        "total_tokens": usage.prompt + usage.answer,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "accepted_prediction_tokens": usage.accepted,
            "rejected_prediction_tokens": usage.rejected,
            "reasoning_tokens": 0,
            "audio_tokens": 0,
        },
    }
