"""What a decode is asked for and what it yields, step by step.

Letters: N tree nodes including the root, V vocabulary.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from torch import Tensor

from eagle.context import Context
from eagle.judging import AUTO, Judge, check_verifier
from eagle.logprobs import TokenLogprob
from eagle.sampling import Sampling, check_seed
from eagle.text import StopStrings
from hsd_verify import DraftTree

Finish = Literal["stop", "length", "context"]


@dataclass(frozen=True)
class DecodeOptions:
    """What to decode until, and by which laws. Raises ValueError at construction for values outside their range."""

    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 512
    verifier: str = AUTO  # a name in eagle.judging.VERIFIERS; auto: the one that the drafter's trees are made for
    ignore_end: bool = False  # go on behind end-of-text tokens, for measurements of a fixed length
    stop_ids: frozenset[int] = frozenset()  # tokens that end an answer beside the target's own
    stop: tuple[str, ...] = ()  # an answer ends with the token that completes one of these in its text
    seed: int | None = None  # of this answer alone, in place of the generator that the call is given
    logprobs: int | None = None  # steps tell log-probabilities, and of so many of the most probable tokens; None: not

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        object.__setattr__(self, "stop_ids", frozenset(self.stop_ids))
        StopStrings(self.stop)  # refuses empty ones
        if self.seed is not None:
            check_seed(self.seed)
        if self.logprobs is not None and (not isinstance(self.logprobs, int) or self.logprobs < 0):
            raise ValueError(f"logprobs is {self.logprobs!r}, it must be a number of tokens, 0 or larger, or None")
        if not isinstance(self.max_new_tokens, int) or isinstance(self.max_new_tokens, bool):
            raise ValueError(f"max_new_tokens is {self.max_new_tokens!r}, it must be a whole number")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}, it must be at least 1")
        if self.verifier != AUTO:
            check_verifier(self.verifier)


@dataclass(frozen=True)
class Round:
    """What one round saw and decided, for whoever measures."""

    tree: DraftTree
    logits: Tensor  # (N, V), row v = the target's after node v
    judge: Judge  # by which it was decided
    path: tuple[int, ...]  # accepted nodes below the root
    context: Context | None = None  # prompt, answer and root, where laws depend on them

    @cached_property
    def target_probs(self) -> Tensor:
        """(N, V), row v = the target's law after node v; formed when asked for."""
        context, every = self.context, range(self.tree.num_nodes)
        return self.judge.sampling.laws(self.logits, None if context is None else context.after(self.tree, every))

    @property
    def path_logits(self) -> Tensor:
        """(path + 1, V): the target's after the root and after every accepted node."""
        return self.logits[[0, *self.path]]


@dataclass(frozen=True)
class Step:
    """The tokens one round emitted; the prefill's step emits one token and has no round."""

    tokens: tuple[int, ...]
    num_accepted: int  # how many of `tokens`, its first ones, were drafted
    finish: Finish | None = None  # why decoding ends with this step
    round: Round | None = None
    read: Tensor | None = None  # (1, V) the target's logits before the token of a step without a round
    logprobs: tuple[TokenLogprob, ...] = ()  # one a token, where the options ask for them

    @property
    def logits(self) -> Tensor | None:
        """(n, V): what each of the n tokens was decided from, the target's own, before temperature and penalties.

        Of the prefill's step (1, V). None for a step of no tokens, and one that was kept without its tensors. Rows of
        a round are gathered when asked for.
        """
        rows = self.round.path_logits if self.round is not None else self.read
        return None if rows is None else rows[: len(self.tokens)]
