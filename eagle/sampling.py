"""Logits -> law, one object for the target, the draft and the plain baseline.

    laws(logits, contexts)   all of it: at a node the context is prompt, answer and path, so that whatever depends on
                             the text stays lossless; see `eagle.shaping`
    law(logits)              temperature, min-p, top-k and top-p alone, which no token's name enters: drafts use it too

Letters: V vocabulary, n rows.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from eagle import shaping
from eagle.context import Context
from eagle.shaping import Processor
from hsd_verify.draw import draw_index

HOTTEST = 1e6  # all tokens are as probable as each other long before
COLD, COLDEST = 1e-3, 1e-30  # the second is still a number in float32


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy: one-hot laws, so that verification is exact and not a limit.

    Fields apply in vLLM's order: bad words, bias, penalties, processors, temperature, min-p, top-k, top-p. Raises
    ValueError at construction for values outside their range.
    """

    temperature: float = 0.0  # 0: greedy, the best token of the processed scores
    top_k: int = 0  # keep the k most probable tokens; 0: all
    top_p: float = 1.0  # keep the smallest set of most probable tokens with at least this mass; 1: all
    min_p: float = 0.0  # keep tokens at least so probable as this part of the most probable one; 0: all
    repetition_penalty: float = 1.0  # divides the logits of tokens in prompt or answer (multiplies those below 0)
    presence_penalty: float = 0.0  # subtracted once a token stands in the answer
    frequency_penalty: float = 0.0  # subtracted for each time that a token stands in the answer
    logit_bias: Any = ()  # a mapping, or pairs, token id -> number that is added; -inf forbids
    bad_words: Any = ()  # sequences of ids that shall not appear: see `eagle.text.bad_word_ids`
    processors: tuple[Processor, ...] = ()  # functions of (ids (1, T), scores (1, V)), transformers' LogitsProcessors
    drafting: "Sampling | None" = None  # what drafts draw by, where processors hold temperature or cuts; None: as above

    def __post_init__(self) -> None:
        self._check_cuts()
        self._check_penalties()
        put = object.__setattr__  # frozen for everyone else, and hashable: no dictionary, no list
        put(self, "logit_bias", _bias(self.logit_bias))
        put(self, "bad_words", _words(self.bad_words))
        put(self, "processors", tuple(self.processors))
        for processor in self.processors:
            shaping.check_processor(processor)

    def _check_cuts(self) -> None:
        if not 0 <= self.temperature <= HOTTEST:
            raise ValueError(f"temperature is {self.temperature}, it must be 0 (greedy) or larger, at most {HOTTEST:g}")
        if not isinstance(self.top_k, int):
            raise ValueError(f"top_k is {self.top_k!r}, it must be a whole number")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}, it must be 0 (off) or larger")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, it must lie in (0, 1]; 1 switches it off")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}, it must lie in [0, 1]; 0 switches it off")

    def _check_penalties(self) -> None:
        if not 0 < self.repetition_penalty < math.inf:
            told = f"repetition_penalty is {self.repetition_penalty}"
            raise ValueError(f"{told}, it must be larger than 0; 1 switches it off")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise ValueError(f"{name} is {getattr(self, name)}, it must lie in [-2, 2]; 0 switches it off")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def shapes(self) -> bool:
        """Whether `laws` does more than `law`: something is done to single tokens, or by the text before."""
        return bool(self.logit_bias or self.bad_words) or self.reads_text

    @property
    def reads_text(self) -> bool:
        """Whether laws depend on the text before, so that `laws` needs contexts."""
        penalised = self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        return penalised or bool(self.processors) or any(len(word) > 1 for word in self.bad_words)

    @property
    def for_drafts(self) -> "Sampling":
        """The same without what names tokens of the target or needs its text: what a draft draws by."""
        if self.drafting is not None:
            return self.drafting
        if not self.shapes:
            return self
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p)

    def scaled(self, factor: float) -> "Sampling":
        """The same at `factor` times the temperature."""
        return replace(self, temperature=self.temperature * factor)

    def laws(self, logits: Tensor, contexts: Sequence[Context] | None = None) -> Tensor:
        """Logits (n, V) of n contexts -> the laws (n, V) that tokens are drawn from, as `law`."""
        return self.law(self.shaped(logits, contexts))

    def shaped(self, logits: Tensor, contexts: Sequence[Context] | None = None) -> Tensor:
        """Logits (n, V) as they are before the temperature; untouched where nothing names a token or reads the text.

        Else in float32 or better, as transformers and vLLM have it. Raises ValueError for ids beyond V.
        """
        if not self.shapes:
            return logits
        assert contexts is not None or not self.reads_text, "a law that depends on the text needs it"
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.bad_words:
            logits = shaping.without_bad_words(logits, self.bad_words, contexts)
        if self.logit_bias:
            logits = shaping.biased(logits, self.logit_bias)
        return logits if contexts is None else self._penalised(logits, contexts)

    def _penalised(self, logits: Tensor, contexts: Sequence[Context]) -> Tensor:
        if self.repetition_penalty != 1:
            logits = shaping.without_repetition(logits, self.repetition_penalty, contexts)
        if self.presence_penalty or self.frequency_penalty:
            logits = shaping.without_frequent(logits, self.presence_penalty, self.frequency_penalty, contexts)
        return shaping.processed(logits, self.processors, contexts) if self.processors else logits

    def law(self, logits: Tensor) -> Tensor:
        """Logits (..., V) -> probabilities (..., V), in float32 or better whatever the logits' dtype.

        Of temperature, min-p, top-k and top-p alone: what a target's token is drawn from is `laws`.
        """
        if self.greedy:
            return one_hot(greedy_tokens(logits), logits.shape[-1])
        scores = self._heated(logits)
        probs = scores.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        return keep_top_p(probs, self.top_p) if self.top_p < 1 else probs

    def scores(self, logits: Tensor) -> Tensor:
        """Logits (..., V) -> scores (..., V) whose softmax is the law: `logits / temperature`, -inf for those left out.

        In float32 or better. Not at temperature 0, where quotients have no end.
        """
        assert not self.greedy, "a greedy law has no scores"
        scores = self._heated(logits).to(torch.promote_types(logits.dtype, torch.float32))
        if self.top_p == 1:
            return scores
        return scores.masked_fill(keep_top_p(scores.softmax(-1), self.top_p) == 0, -torch.inf)

    def _heated(self, logits: Tensor) -> Tensor:
        """Logits (..., V) over the temperature, -inf below `min_p` and beyond `top_k`.

        Still in their own dtype where nothing changes.
        """
        dtype = torch.promote_types(logits.dtype, torch.float32)
        if self.temperature < COLD:  # quotients would overflow: the best token's is 0 then, all others' very low
            logits = (logits.to(dtype) - logits.amax(-1, keepdim=True)) / max(self.temperature, COLDEST)
        elif self.temperature != 1:  # a pass over all logits
            logits = logits.to(dtype) / self.temperature
        if self.min_p:
            logits = logits.to(dtype)
            least = logits.amax(-1, keepdim=True) + math.log(self.min_p)
            logits = logits.masked_fill(logits < least, -torch.inf)
        if 0 < self.top_k < logits.shape[-1]:
            kept = logits.topk(self.top_k).indices
            logits = torch.full_like(logits, -torch.inf).scatter(-1, kept, logits.gather(-1, kept))
        return logits


def _bias(given: Mapping[int, float] | Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Pairs in the order of their tokens, a token once."""
    try:
        pairs = {int(token): float(number) for token, number in dict(given).items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"logit_bias is {given!r}, it must map token ids to numbers ({error})") from None
    for token, number in pairs.items():
        if math.isnan(number) or number == math.inf:
            raise ValueError(f"logit_bias of token {token} is {number}, it must be a number, or -inf to forbid it")
    return tuple(sorted(pairs.items()))


def _words(given: Iterable[Iterable[int]]) -> tuple[tuple[int, ...], ...]:
    try:
        words = tuple(tuple(int(token) for token in word) for word in given)
    except (TypeError, ValueError) as error:
        told = f"bad_words is {given!r}, it must hold sequences of token ids ({error})"
        raise ValueError(f"{told}: eagle.text.bad_word_ids makes them of text") from None
    if not all(words):
        raise ValueError("bad_words holds a word of no tokens: remove it")
    return words


def greedy_tokens(logits: Tensor) -> Tensor:
    """Logits (..., V) -> the most probable tokens (...), the first of equal ones."""
    return logits.max(-1).indices  # argmax in bf16 takes four times as long


def one_hot(tokens: Tensor, vocab_size: int) -> Tensor:
    """Token ids (...) -> point masses (..., V) in float32."""
    zeros = torch.zeros(*tokens.shape, vocab_size, device=tokens.device)
    return zeros.scatter_(-1, tokens[..., None], 1.0)


def keep_top_p(probs: Tensor, top_p: float) -> Tensor:
    """The law restricted to the smallest set of most probable tokens with mass >= top_p, renormalised: (..., V)."""
    ordered, tokens = probs.sort(dim=-1, descending=True, stable=True)
    mass_before = ordered.cumsum(-1) - ordered
    kept = ordered.masked_fill(mass_before >= top_p, 0.0)
    kept[..., 0] = ordered[..., 0]  # rounding may leave mass_before above 0 for a top_p near 0
    return torch.zeros_like(probs).scatter(-1, tokens, kept / kept.sum(-1, keepdim=True))


def drawn_token(law: Tensor, generator: torch.Generator | None = None) -> int:
    """One token from a law (V,), as plain decoding draws it.

    By one number and a cumulative sum: `multinomial` draws a number a token, which takes longer than the softmax.
    """
    uniform = torch.rand((), dtype=torch.float64, generator=generator, device=law.device)
    return draw_index(law, uniform)


def check_seed(seed: int) -> None:
    """Raises ValueError for seeds beyond 64 bits."""
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed is {seed}, it must lie in -2^63..2^64 - 1")


def seeded(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on the device of the laws it will draw from. Raises ValueError for seeds beyond 64 bits."""
    check_seed(seed)
    return torch.Generator(device).manual_seed(seed)
