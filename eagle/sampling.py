"""Logits -> law: temperature, top-k and top-p, one function for the target, the draft and the plain baseline.

Letters: V vocabulary.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hsd_verify.draw import draw_index

HOTTEST = 1e6  # all tokens are as probable as each other long before
COLD, COLDEST = 1e-3, 1e-30  # the second is still a number in float32


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy: one-hot laws, so that verification is exact and not a limit.

    Raises ValueError at construction for values outside their range.
    """

    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # keep the k most probable tokens; 0: all
    top_p: float = 1.0  # keep the smallest set of most probable tokens with at least this mass; 1: all

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= HOTTEST:
            raise ValueError(f"temperature is {self.temperature}, it must be 0 (greedy) or larger, at most {HOTTEST:g}")
        if not isinstance(self.top_k, int):
            raise ValueError(f"top_k is {self.top_k!r}, it must be a whole number")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}, it must be 0 (off) or larger")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, it must lie in (0, 1]; 1 switches it off")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def scaled(self, factor: float) -> "Sampling":
        """The same at `factor` times the temperature."""
        return replace(self, temperature=self.temperature * factor)

    def law(self, logits: Tensor) -> Tensor:
        """Logits (..., V) -> probabilities (..., V), in float32 or better whatever the logits' dtype."""
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
        """Logits (..., V) over the temperature, -inf beyond `top_k`; still in their own dtype where nothing changes."""
        dtype = torch.promote_types(logits.dtype, torch.float32)
        if self.temperature < COLD:  # quotients would overflow: the best token's is 0 then, all others' very low
            logits = (logits.to(dtype) - logits.amax(-1, keepdim=True)) / max(self.temperature, COLDEST)
        elif self.temperature != 1:  # a pass over all logits
            logits = logits.to(dtype) / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            kept = logits.topk(self.top_k).indices
            logits = torch.full_like(logits, -torch.inf).scatter(-1, kept, logits.gather(-1, kept))
        return logits


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


def seeded(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on the device of the laws it will draw from. Raises ValueError for seeds beyond 64 bits."""
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed is {seed}, it must lie in -2^63..2^64 - 1")
    return torch.Generator(device).manual_seed(seed)
