"""Answers to one request, one after the other, as work of a batch: sessions, steps and their text."""

import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from eagle.coroutines import Request
from eagle.decode import Session, Step, rounds_taken
from eagle.serving.events import Delta
from eagle.serving.gauges import Gauges
from eagle.serving.pool import SessionPool
from eagle.serving.work import Job
from eagle.text import Detokenizer, StopStrings

Rounds = Generator[Request | None, Any, None]


class Answering:
    """For the decoding thread."""

    def __init__(self, pool: SessionPool, tokenizer: PreTrainedTokenizerBase, gauges: Gauges):
        self._pool, self._tokenizer, self._gauges = pool, tokenizer, gauges

    def rounds(self, job: Job) -> Rounds:
        """Yields None after each round, and the requests of its answers.

        All answers to a prompt come from one session, which reads it once.
        """
        job.started_s = time.perf_counter()
        for number, prompt in enumerate(job.ask.prompts):
            session = self._pool.take(prompt)
            try:
                for choice in range(number * job.ask.num_answers, (number + 1) * job.ask.num_answers):
                    yield from self._answer(job, choice, prompt, session)
            except Exception:
                self._pool.drop()
                raise
            except GeneratorExit:  # the client has left: what was read stays of use
                self._pool.give_back(session)
                raise
            self._pool.give_back(session)

    def _answer(self, job: Job, choice: int, prompt: Sequence[int], session: Session) -> Rounds:
        options, text = replace(job.ask.options, seed=job.ask.seeds[choice]), AnswerText(self._tokenizer, job.ask.stop)

        has_begun = False

        def take(step: Step) -> bool:
            nonlocal has_begun
            delta, num_tokens = text.read(step, choice)
            if not has_begun and choice % job.ask.num_answers == 0:
                self._read(job, len(prompt), session.num_reused)
            has_begun = True
            job.count(step, num_tokens)
            self._gauges.watch(job, step, num_tokens)
            if delta.finish is not None:
                job.finishes.append(delta.finish)
            job.deliver(delta)
            return delta.finish is None

        yield from rounds_taken(session.rounds(list(prompt), options), take)

    def _read(self, job: Job, num_prompt: int, num_cached: int) -> None:
        job.usage.prompt += num_prompt
        job.usage.cached += num_cached
        self._gauges.read(num_prompt, num_cached)


class AnswerText:
    """The text of one answer, step by step, cut before its stop string."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]):
        self._detokenizer, self._stops = Detokenizer(tokenizer), StopStrings(stops)

    def read(self, step: Step, choice: int) -> tuple[Delta, int]:
        """What a step adds, and how many of its tokens belong to the answer: those behind a stop string do not."""
        text, finish, count = "", step.finish, len(step.tokens)
        for place, token in enumerate(step.tokens):
            text += self._stops.push(self._detokenizer.push(token))
            if self._stops.found:
                finish, count = "stop", place + 1
                break
        if finish is not None:
            text += self._stops.push(self._detokenizer.flush()) + self._stops.flush()
        return Delta(choice, text, step.logprobs[:count], finish, step.tokens[:count]), count
