"""What decoding asks of a target: passes that can be answered for one sequence, or for many in one.

Letters: T tokens of a run, N tree nodes including the root.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from eagle.coroutines import Request
from eagle.engine.cache import KeyValueCache
from eagle.engine.joint import score_together
from eagle.engine.protocol import Engine, TargetOutput
from eagle.engine.target import Target


@dataclass(frozen=True, eq=False)
class TextRead(Request):
    """A run of tokens behind a cache, to be committed: the arguments of `Engine.prefill`. A pass of its own."""

    target: Engine[Any]
    ids: Tensor  # (T,)
    cache: Any

    rank: ClassVar[int] = 0
    may_wait: ClassVar[bool] = True  # a long prompt in pieces: the others have a round between two of them

    def alone(self) -> TargetOutput:
        return self.target.prefill(self.ids, self.cache)


@dataclass(frozen=True, eq=False)
class TreeScore(Request):
    """A tree behind a cache, nothing of which is committed: the arguments of `Engine.forward_tree`."""

    target: Engine[Any]
    tokens: Tensor  # (N,)
    ancestors: Tensor  # (N, N) bool, on the host
    cache: Any

    rank: ClassVar[int] = 3  # behind all that drafts

    def alone(self) -> TargetOutput:
        return self.target.forward_tree(self.tokens, self.ancestors, self.cache)

    @property
    def partners(self) -> Hashable | None:
        """Trees of one target, where it can."""
        if not isinstance(self.target, Target) or not isinstance(self.cache, KeyValueCache):
            return None
        return None if self.target.why_not_together else self.target

    @classmethod
    def together(cls, asked: Sequence["TreeScore"]) -> Sequence[TargetOutput]:
        target = asked[0].target
        assert isinstance(target, Target), "others have no partners"
        return score_together(target, asked)
