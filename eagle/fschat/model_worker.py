"""FastChat's model worker over a decode session: the routes, the registration and the heart-beat are FastChat's own.

One answer at a time, by FastChat's semaphore; what waits is counted in the queue that the controller reads. Where a
client leaves, its answer ends with the round under way.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from fastchat.constants import ErrorCode
from fastchat.serve import base_model_worker
from fastchat.serve.base_model_worker import BaseModelWorker, app
from transformers import PreTrainedTokenizerBase

from eagle.chat import Chat
from eagle.fschat.prompt_format import conversation_for, opened
from eagle.fschat.worker_params import WorkerParams, worker_params
from eagle.prompting import encode_prompt
from eagle.sampling import seeded
from eagle.stats import DecodeStats
from eagle.text import Detokenizer, StopStrings

__all__ = ["SpeculativeWorker", "app"]


class SpeculativeWorker(BaseModelWorker):  # type: ignore[misc]
    """Answers as its chat decodes: target, drafter, verifier and seed are the chat's, the rest is the request's."""

    def __init__(self, chat: Chat, name: str, controller: str, address: str, system: str | None = None, seed: int = 0):
        """system: in place of the template's own. seed: of the first answer; those after it go on from there."""
        self._chat, self._system, self._generator = chat, system, seeded(seed, chat.target.device)
        if base_model_worker.logger is None:  # FastChat's own would write files into the working directory
            base_model_worker.logger = logging.getLogger("model_worker")
        with _streams_of_ours():
            super().__init__(controller, address, uuid4().hex[:8], name, [name], limit_worker_concurrency=1)
        base_model_worker.worker = self  # the one that the routes call, whatever was there before
        self.tokenizer, self.context_len = self._tokenizer, chat.target.context_limit
        self.stats = DecodeStats()  # of the last answer

    def make_conv_template(self, conv_template: str | None = None, model_path: str | None = None) -> Any:
        return conversation_for(self._tokenizer, self._chat.template, self._system)

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        assert self._chat.target.tokenizer is not None, "chats of the command have one"
        return self._chat.target.tokenizer

    def generate_stream_gate(self, params: Mapping[str, Any]) -> Iterator[bytes]:
        """Lines of JSON, each with the whole text so far, ended by a zero byte; an error is a line of its own."""
        self.call_ct += 1
        try:
            for line in self._answer(params):
                yield _line(line)
        except (ValueError, KeyError) as error:
            yield _line({"text": f"{error}", "error_code": int(ErrorCode.PARAM_OUT_OF_RANGE)})
        except RuntimeError as error:
            yield _line({"text": f"{error}", "error_code": int(ErrorCode.INTERNAL_ERROR)})

    def generate_gate(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The last line alone."""
        *_, last = self.generate_stream_gate(params)
        told: dict[str, Any] = json.loads(last[:-1])
        return told

    def _answer(self, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        asked = worker_params(params, self._chat.options.verifier)
        ids = encode_prompt(self._tokenizer, opened(self._tokenizer, asked.prompt))
        self._chat.target.new_cache().check_room(len(ids) + 1)
        text, why = asked.prompt if asked.echo else "", "length"
        for piece, finish in self._pieces(asked, ids):
            text, why = text + piece, "stop" if finish == "stop" else "length"
            yield self._told(text, len(ids))
        yield {**self._told(text, len(ids)), "finish_reason": why}

    def _pieces(self, asked: WorkerParams, ids: list[int]) -> Iterator[tuple[str, str | None]]:
        """Text as rounds emit it, and why it ends."""
        detokenizer, stops = Detokenizer(self._tokenizer), StopStrings(asked.options.stop)
        self.stats = DecodeStats()
        for step in self.stats.watch(self._chat.session.decode(ids, asked.options, self._generator)):
            text = "".join(stops.push(detokenizer.push(token)) for token in step.tokens)
            finish = "stop" if stops.found else step.finish
            yield text, finish
            if stops.found:
                return
        yield stops.push(detokenizer.flush()) + stops.flush(), finish

    def _told(self, text: str, num_prompt: int) -> dict[str, Any]:
        emitted = self.stats.num_tokens + 1  # and the first one
        usage = {"prompt_tokens": num_prompt, "completion_tokens": emitted, "total_tokens": num_prompt + emitted}
        return {"text": text, "error_code": 0, "usage": usage, "finish_reason": None}


def _line(told: dict[str, Any]) -> bytes:
    return json.dumps(told).encode() + b"\0"


@contextmanager
def _streams_of_ours() -> Iterator[None]:
    """FastChat puts loggers in place of stdout and stderr; ours stay what they are."""
    streams = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
