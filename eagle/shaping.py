"""What changes a row of logits before it becomes a law, token by token and by the text before it.

    bad words             transformers' NoBadWordsLogitsProcessor: a last token is forbidden where the others precede it
    logit bias            OpenAI's: added to the logits of single tokens
    repetition penalty    transformers' RepetitionPenaltyLogitsProcessor (arXiv 1909.05858): tokens of prompt and answer
    frequency, presence   OpenAI's: by how often, and whether, a token stands in the answer; the prompt does not count
    processors            transformers' own, or any function of (ids (1, T), scores (1, V))

In this order, which is vLLM's; temperature, min-p, top-k and top-p follow.

Letters: n rows, V vocabulary, T tokens of a text.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eagle.context import Context
from hsd_verify.transfer import send

Processor = Callable[[Tensor, Tensor], Tensor]
"""Ids (1, T) and scores (1, V) -> scores (1, V). A function of the two: asked again, it gives the same."""

STATEFUL = {  # by class name: what transformers has that remembers earlier calls
    "SynthIDTextWatermarkLogitsProcessor": "it remembers the texts that it was called with",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "it runs the model with a cache of its own",
    "ClassifierFreeGuidanceLogitsProcessor": "it wants a second row of logits, of the text without its prompt",
}


def check_processor(processor: object) -> None:
    """Raises ValueError for what is no function of (ids, scores)."""
    name = type(processor).__name__
    if not callable(processor):
        raise ValueError(f"processor {processor!r} cannot be called: pass a function of (ids, scores)")
    for known in type(processor).__mro__:
        if known.__name__ in STATEFUL:
            reason = STATEFUL[known.__name__]
            raise ValueError(f"processor {name} is no function of (ids, scores): {reason}; leave it out")


def without_bad_words(logits: Tensor, words: Sequence[Sequence[int]], contexts: Sequence[Context] | None) -> Tensor:
    """Logits (n, V), -inf for tokens that would complete one of these words; may share memory with what was given."""
    logits = logits.clone()
    for word in words:
        check_ids([word[-1]], logits.shape[-1], "bad_words")
        prefix = list(word[:-1])
        rows = [
            row
            for row in range(len(logits))
            if not prefix or (contexts is not None and _ends_with(contexts[row], prefix))
        ]
        logits[rows, word[-1]] = -torch.inf
    return logits


def _ends_with(context: Context, tokens: list[int]) -> bool:
    return len(context.ids) >= len(tokens) and context.ids[-len(tokens) :].tolist() == tokens


def biased(logits: Tensor, bias: Sequence[tuple[int, float]]) -> Tensor:
    """Logits (n, V) with numbers added to those of single tokens; a token once."""
    tokens = [token for token, _ in bias]
    check_ids(tokens, logits.shape[-1], "logit_bias")
    added = send(torch.tensor([number for _, number in bias], dtype=logits.dtype), logits.device)
    return logits.index_add(-1, send(torch.tensor(tokens), logits.device), added.expand(len(logits), -1))


def without_repetition(logits: Tensor, penalty: float, contexts: Sequence[Context]) -> Tensor:
    """Logits (n, V): those of tokens in prompt or answer are divided by the penalty, or multiplied below 0."""
    logits = logits.clone()
    for row, context in zip(logits, contexts, strict=True):
        ids = context.ids.to(row.device)
        own = row[ids]  # (T,) a token that stands twice gets the same number twice
        row[ids] = torch.where(own < 0, own * penalty, own / penalty)
    return logits


def without_frequent(logits: Tensor, presence: float, frequency: float, contexts: Sequence[Context]) -> Tensor:
    """Logits (n, V) less `frequency` for each time, and `presence` once, that a token stands in the answer."""
    counts = torch.zeros_like(logits)
    for row, context in zip(counts, contexts, strict=True):
        answer = context.answer.to(row.device)
        row.index_add_(0, answer, row.new_ones(len(answer)))
    return logits - frequency * counts - presence * (counts > 0)


def processed(logits: Tensor, processors: Sequence[Processor], contexts: Sequence[Context]) -> Tensor:
    """Logits (n, V) through processors, a row at a time: those of a library need not know about ragged batches."""
    rows = []
    for row, context in zip(logits, contexts, strict=True):
        scores, ids = row[None].clone(), context.ids.to(row.device)[None]  # some write into what they are given
        for processor in processors:
            scores = processor(ids, scores)
        rows.append(scores[0])
    return torch.stack(rows)


def check_ids(tokens: Sequence[int], vocab_size: int, name: str) -> None:
    """Raises ValueError for ids that the logits have no place for."""
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise ValueError(f"{name} names token {token}, ids of this model lie in 0..{vocab_size - 1}")
