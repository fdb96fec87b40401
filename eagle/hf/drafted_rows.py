"""The loop behind an accelerated `generate`: rows of a batch side by side, each a decode session's answer.

Letters: B rows, T tokens of a padded prompt, n tokens of an answer, V vocabulary.
"""

import warnings
from collections.abc import Generator, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation import GenerateDecoderOnlyOutput

from eagle.batching import side_by_side
from eagle.coroutines import Request
from eagle.decode import DecodeOptions, Session, Step, rounds_taken
from eagle.drafters.protocol import Drafter
from eagle.engine.target import Target
from eagle.noise import answer_key
from eagle.sampling import Sampling, seeded

BY_ROW = {  # of transformers' processors, those that hold lengths, texts or functions for every row of a batch
    "RepetitionPenaltyLogitsProcessor",
    "PrefixConstrainedLogitsProcessor",
    "EncoderRepetitionPenaltyLogitsProcessor",
    "EncoderNoRepeatNGramLogitsProcessor",
}
REMEMBERING = {"MultiTokenEOSCriteria"}  # stopping criteria, of lm-evaluation-harness, that hold a state for every row
CUTS = {
    TemperatureLogitsWarper: "temperature",
    TopKLogitsWarper: "top_k",
    TopPLogitsWarper: "top_p",
    MinPLogitsWarper: "min_p",
}


class Drafts(Protocol):
    """What a model drafts with."""

    target: Target
    verifier: str

    def drafter(self) -> Drafter | None: ...


def generate_rows(
    drafting: Drafts,
    input_ids: Tensor,
    processors: Any,
    criteria: Any,
    config: Any,
    attention_mask: Tensor | None,
    streamer: Any,
) -> Any:
    """What transformers' `_sample` returns, from prompts (B, T) padded on the left; everything else was prepared by it.

    Raises ValueError for padding elsewhere, for a streamer of several rows, for processors that are no functions of
    (ids, scores), and where rows of different length have no padding token.
    """
    if streamer is not None and len(input_ids) > 1:
        raise ValueError("a streamer tells one sequence: rows of a batch come side by side, give one prompt")
    pads = _pads(input_ids, attention_mask)
    keeps = bool(config.return_dict_in_generate and (config.output_scores or config.output_logits))
    size = len(input_ids)
    rows = [_Row(ids, pads[n], processors, keeps, _place(n, size, processors)) for n, ids in enumerate(input_ids)]
    for processor in processors:
        Sampling(processors=(processor,))  # refuses those that remember
    known = {id(tokenizer): tokenizer} if (tokenizer := drafting.target.tokenizer) is not None else {}
    is_alone = size == 1 or not config.do_sample
    works = (
        _decoding(drafting, row, _Ends(criteria, size, known), config, streamer, _generator(drafting, is_alone))
        for row in rows
    )
    for _ in side_by_side(works, size):
        pass  # rows take their own steps
    if streamer is not None:
        streamer.end()
    return _result(rows, input_ids, config)


@dataclass(eq=False)
class _Row:
    """One sequence: transformers' processors and criteria see its padding, the models do not."""

    padded: Tensor  # (T,)
    num_pads: int
    processors: Any
    keeps: bool  # scores and logits
    place: tuple[int, int] | None  # its number and B, for processors that know the rows of their batch
    tokens: list[int] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)  # n of (V,)
    logits: list[Tensor] = field(default_factory=list)

    @property
    def prompt(self) -> list[int]:
        return [int(token) for token in self.padded[self.num_pads :].tolist()]

    @property
    def ids(self) -> Tensor:
        """Prompt and answer, (T + n,)."""
        return torch.cat([self.padded, self.padded.new_tensor(self.tokens)])

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """As a processor of `Sampling`: transformers' own, on the padded text."""
        if self.num_pads:
            ids = torch.cat([self.padded[None, : self.num_pads].to(ids.device), ids], dim=-1)
        return self.processed(ids, scores)

    def processed(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (1, V) by the padded text ids (1, T + n)."""
        if self.place is None:
            own: Tensor = self.processors(ids, scores)
            return own
        number, size = self.place
        every: Tensor = self.processors(ids.expand(size, -1).clone(), scores.expand(size, -1).clone())  # (B, V)
        return every[number : number + 1]

    def sampling(self, draws: bool) -> Sampling:
        """All of transformers' law is in its processors, temperature and cuts included; a draft knows the latter."""
        own = (self,) if len(self.processors) else ()
        return Sampling(1.0 if draws else 0.0, processors=own, drafting=_of_drafts(self.processors) if draws else None)

    def add(self, token: int, logits: Tensor | None) -> None:
        if self.keeps and logits is not None:
            raw = logits[None].to(torch.float32, copy=True)  # (1, V)
            self.scores.append(self.processed(self.ids[None], raw.clone())[0])
            self.logits.append(raw[0])
        self.tokens.append(token)


def _place(number: int, size: int, processors: Any) -> tuple[int, int] | None:
    """Where a row stands, if a processor may hold something for every row: those see the row in all places at once."""
    kinds = {type(one) for one in processors}
    may_know = any(kind.__name__ in BY_ROW or not kind.__module__.startswith("transformers.") for kind in kinds)
    return (number, size) if size > 1 and may_know else None


def _of_drafts(processors: Any) -> Sampling:
    """What of transformers' law a draft can go by."""
    known: dict[str, Any] = {}
    for one in processors:
        known |= {CUTS[kind]: getattr(one, CUTS[kind]) for kind in CUTS if type(one) is kind}
    return Sampling(**({"temperature": 1.0} | known))


def _generator(drafting: Drafts, is_alone: bool) -> torch.Generator | None:
    """Of a row that draws: torch's own where it is alone, else one that torch's own seeds: draws have no neighbours."""
    return None if is_alone else seeded(answer_key(None), drafting.target.device)


def _decoding(
    drafting: Drafts, row: _Row, ends: "_Ends", config: Any, streamer: Any, generator: torch.Generator | None
) -> Generator[Request | None, Any, None]:
    """Fills a row until the criteria end it; the maximal length is the session's cap too: no draft is too deep."""
    session, left = Session(drafting.target, drafting.drafter()), config.max_length - len(row.padded)
    options = DecodeOptions(row.sampling(bool(config.do_sample)), max(left, 1), drafting.verifier, ignore_end=True)

    def take(step: Step) -> bool:
        for token, logits in zip(step.tokens, _rows_of(step, row.keeps), strict=True):
            row.add(token, logits)
            if streamer is not None:
                streamer.put(torch.tensor([token]))
            kept = (tuple(score[None] for score in row.scores)) if row.keeps and config.output_scores else None
            if ends.reached(row.ids[None], kept):
                return False
        if step.finish == "context":
            warnings.warn(f"the context of {session.cache.limit} tokens is full: the answer ends here", stacklevel=2)
        return step.finish is None

    return rounds_taken(session.rounds(row.prompt, options, generator), take)


class _Ends:
    """The stopping criteria of one row of a batch. Those that remember rows are its own, and see it in all places."""

    def __init__(self, criteria: Any, size: int, shared: dict[int, Any]):
        """shared: what copies have in common, by its id: a tokenizer is large."""
        self._size = size
        self._criteria = [deepcopy(one, dict(shared)) if self._remembers(one) else one for one in criteria]

    def _remembers(self, criterion: Any) -> bool:
        return self._size > 1 and type(criterion).__name__ in REMEMBERING

    def reached(self, ids: Tensor, scores: Any) -> bool:
        """Whether one of them ends the text ids (1, n); every one is asked."""
        size = self._size
        found = [one(ids.expand(size, -1) if self._remembers(one) else ids, scores) for one in self._criteria]
        return any(bool(torch.as_tensor(each).all()) for each in found)


def _rows_of(step: Step, keeps: bool) -> Iterator[Tensor | None]:
    logits = step.logits if keeps else None
    return iter([None] * len(step.tokens) if logits is None else logits)


def _pads(input_ids: Tensor, attention_mask: Tensor | None) -> list[int]:
    """How many tokens on the left of each row are padding."""
    if attention_mask is None:
        return [0] * len(input_ids)
    mask = attention_mask.bool()
    counts = (~mask).sum(-1)  # (B,)
    on_left = torch.arange(mask.shape[1], device=mask.device) >= counts[:, None]
    if not torch.equal(mask, on_left):
        row = int((mask != on_left).any(-1).nonzero()[0])
        raise ValueError(f"row {row} is masked elsewhere than on the left: set tokenizer.padding_side = 'left'")
    return [int(count) for count in counts.tolist()]


def _result(rows: list[_Row], input_ids: Tensor, config: Any) -> Any:
    longest = max(len(row.tokens) for row in rows)
    answers = input_ids.new_tensor([_filled(row.tokens, longest, config) for row in rows])  # (B, n)
    sequences = torch.cat([input_ids, answers], dim=-1)
    if not config.return_dict_in_generate:
        return sequences
    scores = _columns([row.scores for row in rows], longest) if config.output_scores else None
    logits = _columns([row.logits for row in rows], longest) if config.output_logits else None
    told: dict[str, Any] = {"sequences": sequences, "scores": scores, "logits": logits}
    return GenerateDecoderOnlyOutput(**told)


def _filled(tokens: list[int], length: int, config: Any) -> list[int]:
    missing = length - len(tokens)
    if not missing:
        return tokens
    pad = getattr(config, "_pad_token_tensor", None)
    if pad is None:
        raise ValueError("rows end at different lengths, and there is no padding token: pass pad_token_id")
    return [*tokens, *([int(pad)] * missing)]


def _columns(rows: list[list[Tensor]], length: int) -> tuple[Tensor, ...]:
    """n tensors (B, V); zeros behind the end of a row, where transformers has the scores of padding."""
    empty = torch.zeros_like(next(row[0] for row in rows if row))
    return tuple(torch.stack([row[i] if i < len(row) else empty for row in rows]) for i in range(length))
