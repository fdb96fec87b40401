"""What decoding needs of a target and of its cache; `eagle.engine.target` and `eagle.engine.cache` are the first such.

    prefill        read a run of tokens, commit all of them
    forward_tree   score a tree in one pass, commit nothing
    keep           commit the entries of the accepted path, forget the others

Letters: T tokens of a run, N tree nodes including the root, V vocabulary, H hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TargetOutput:
    """What one forward of the target yields, all for the positions just read."""

    logits: Tensor  # (N, V), in the target's dtype
    features: Tensor  # (N, 3H): low, mid, high


class Scored(Protocol):
    """A tree to score, as `Engine.forward_tree` takes it."""

    @property
    def tokens(self) -> Tensor: ...

    @property
    def ancestors(self) -> Tensor: ...

    @property
    def cache(self) -> Any: ...


class SmallPass(Protocol):
    """Another way to read a few nodes than the model's own forward."""

    is_demanded: bool  # and so of the model's draft head; else it may stay without
    shares_passes: bool  # whether `score_together` is more than one pass after the other

    def takes(self, num_nodes: int, cache: Any, dtype: torch.dtype) -> bool:
        """Whether it reads so many nodes behind this cache, for a target in this dtype."""
        ...

    def score(self, tokens: Tensor, ancestors: Tensor, cache: Any, layers: Sequence[int]) -> TargetOutput:
        """As `Engine.forward_tree`, with the inputs of these layers as features."""
        ...

    def score_together(self, trees: Sequence[Scored], layers: Sequence[int]) -> list[TargetOutput]:
        """The same for trees of several sequences, each of which it takes: a row is what it is alone."""
        ...


class SmallRead(Protocol):
    """Another way for a draft head to read a few entries than its own forward; see `eagle.drafters.reader`."""

    shares_passes: bool  # whether several sequences are more than one pass after the other

    def takes(self, states: Tensor) -> bool:
        """Whether it reads so many entries with hidden states (A, H) like these."""
        ...

    def read(self, rows: Sequence[Any]) -> Sequence[Tensor]:
        """States (A, H) of new entries of one or several sequences, whose caches have buffers.

        rows: of `eagle.drafters.reader.NewEntries`; each is one that it takes, and is what it is alone.
        """
        ...

    def logits(self, rows: Sequence[Tensor]) -> Sequence[Tensor]:
        """As `HeadReader.logits`, of states (A, H) of one or several sequences, each of which it takes."""
        ...


class TreeCache(Protocol):
    """Keys and values of one sequence."""

    length: int  # committed entries
    limit: int  # positions the target was made for

    @property
    def max_depth(self) -> int:
        """Levels that a tree may have below a root that is the next entry."""
        ...

    @property
    def is_stale(self) -> bool:
        """Whether the whole text has to be read again, with the next token, before anything else."""
        ...

    def usable_prefix(self, num_tokens: int) -> int:
        """Committed entries that may serve a text of `num_tokens` that begins with the same tokens."""
        ...

    def check_room(self, num_tokens: int) -> None:
        """Raises ValueError when `num_tokens` more would not fit into the target's context."""
        ...

    def keep(self, nodes: Tensor) -> None:
        """Commit the entries `nodes` (ascending) among those appended since the last `keep`, forget the others."""
        ...

    def truncate(self, length: int) -> None:
        """Forget everything behind the first `length` committed entries."""
        ...


Cache = TypeVar("Cache", bound=TreeCache)


class Engine(Protocol[Cache]):
    """A target that can score trees. Its caches belong to the caller, nothing is stored on it."""

    @property
    def device(self) -> torch.device: ...

    @property
    def end_token_ids(self) -> frozenset[int]: ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """What tells the text of tokens, where it is known."""
        ...

    def check_scores_trees(self) -> None:
        """Raises ValueError where this target cannot score a tree, with what to change."""
        ...

    def explain_bad_logits(self, ids: list[int]) -> str:
        """What to tell a user whose logits are not finite after a text."""
        ...

    def new_cache(self) -> Cache:
        """An empty cache for one sequence."""
        ...

    def prefill(self, ids: Tensor, cache: Cache) -> TargetOutput:
        """Read ids (T,) behind the cache and commit them: logits (1, V) after the last, features (T, 3H)."""
        ...

    def forward_tree(self, tokens: Tensor, ancestors: Tensor, cache: Cache) -> TargetOutput:
        """Score tokens (N,) with ancestors (N, N) bool of the host: logits (N, V), features (N, 3H). Commits none."""
        ...
