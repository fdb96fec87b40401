"""Where an answer ends: tokens of end, the cap, stop strings."""

from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from eagle.decoded import DecodeOptions, Finish, Round, Step
from eagle.engine.protocol import Engine
from eagle.logprobs import logprobs_of
from eagle.text import Detokenizer, StopStrings, stop_ids


class Emitter:
    """Cuts what a round produced at the end of text and at the cap, so that no token after the end is emitted."""

    def __init__(self, options: DecodeOptions, target: Engine[Any]):
        self._end_ids = options.stop_ids | (frozenset() if options.ignore_end else target.end_token_ids)
        self._stops = None
        if options.stop:
            self._stops = _StopWatch(tokenizer := tokenizer_for(target, options.stop), options.stop)
            self._end_ids |= stop_ids(tokenizer, options.stop)
        self._num_top = options.logprobs
        self.num_left = options.max_new_tokens

    def step(
        self, tokens: tuple[int, ...], num_accepted: int, round_: Round | None = None, read: Tensor | None = None
    ) -> Step:
        finish: Finish | None = None
        tokens = tokens[: self.num_left]
        end = next((i for i, token in enumerate(tokens) if self._ends(token)), None)
        if end is not None:
            tokens, finish = tokens[: end + 1], "stop"
        elif len(tokens) == self.num_left:
            finish = "length"
        self.num_left -= len(tokens)
        step = Step(tokens, min(num_accepted, len(tokens)), finish, round_, read)
        if self._num_top is None or step.logits is None:
            return step
        return replace(step, logprobs=logprobs_of(tokens, step.logits, self._num_top))

    def _ends(self, token: int) -> bool:
        """Asked once for every token of the answer, in order."""
        return token in self._end_ids or (self._stops is not None and self._stops.completes(token))


class _StopWatch:
    """Looks for stop strings in the text of an answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: tuple[str, ...]):
        self._text, self._stops = Detokenizer(tokenizer), StopStrings(stops)

    def completes(self, token: int) -> bool:
        self._stops.push(self._text.push(token))
        return self._stops.found


def tokenizer_for(target: Engine[Any], stops: tuple[str, ...]) -> PreTrainedTokenizerBase:
    if target.tokenizer is None:
        raise ValueError(f"stop strings {stops} need a tokenizer, this target has none: Target(model, tokenizer)")
    return target.tokenizer
