"""Trees of many sequences scored in one pass: packed side by side, not padded, each behind its own cache.

    one sequence   r a b | r a b c d | r          positions continue each row's own text
    attention      row by row, over the row's own keys; all other layers see one run of tokens and read weights once

Without forked modeling files: transformers hands keys and values to the cache it was given, and what that returns to
the attention function that the model names; here both are ours. A row's attention is the very call that it gets alone,
so that logits differ from its own by sums in another order in the other layers, and by nothing in attention.

Letters: B rows, N tree nodes of a row including the root, M nodes of all rows, T prefix length of a row, L longest
prefix with its nodes, V vocabulary, d head size.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from eagle.engine import masks
from eagle.engine.cache import KeyValueCache
from eagle.engine.layers import inputs_of
from eagle.engine.protocol import Scored, SmallPass, TargetOutput
from eagle.engine.shape import attention_shape
from eagle.engine.suitability import (
    HALF_TOLERANCE,
    TOLERANCE,
    Reader,
    Suitability,
    first_line,
    is_rounded,
    spread_apart,
    trial_key,
)
from hsd_verify.transfer import send

ATTENTION_NAME = "eagle_joint"
TRIAL = ((5, (-1, 0, 0, 1)), (9, (-1, 0, 1, 1, 0)), (3, (-1,)))  # tokens of a prefix and the parents behind it, a row


class JointReader(Reader, Protocol):
    """What a joint pass needs of a target."""

    cache_argument: str
    turn: RLock
    small_pass: SmallPass | None
    feature_layers: tuple[int, int, int]

    @property
    def read_from(self) -> list[nn.Module]: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def has_changing_angles(self) -> bool: ...

    @property
    def suitability(self) -> Suitability: ...

    def new_cache(self) -> Any: ...

    def joined(self, captured: list[Tensor]) -> Tensor: ...


@torch.inference_mode()
def score_together(target: JointReader, trees: Sequence[Scored]) -> list[TargetOutput]:
    """`Target.forward_tree` for trees of several sequences, each with a `KeyValueCache` of its own.

    Nothing is committed. Raises ValueError, before anything is read, where a tree has no room in the context.
    """
    for tree in trees:
        tree.cache.check_room(int(masks.depths(tree.ancestors).max()) + 1)
    small, dtype = target.small_pass, target.dtype
    if small and small.shares_passes and all(small.takes(len(tree.tokens), tree.cache, dtype) for tree in trees):
        return small.score_together(trees, target.feature_layers)
    return _score_eagerly(target, trees)


@torch.inference_mode()
def _score_eagerly(target: JointReader, trees: Sequence[Scored]) -> list[TargetOutput]:
    caches, sizes = [tree.cache for tree in trees], [len(tree.tokens) for tree in trees]
    each = [send(tree.ancestors, target.device) for tree in trees]
    positions = torch.cat([tree.cache.length + masks.depths(own) for tree, own in zip(trees, each, strict=True)])
    with inputs_of(target.read_from, target.turn) as captured, _attending_by_row(target) as own:
        output = target.model(
            torch.cat([tree.tokens for tree in trees])[None],
            attention_mask=_masks(target, each, caches),
            position_ids=positions[None],
            use_cache=True,
            **{target.cache_argument: _Rows(caches, sizes, own)},
        )
    logits = output.logits[0].to(target.device).split(sizes)  # B of (N, V)
    features = target.joined(captured)[0].split(sizes)  # B of (N, 3H)
    return [TargetOutput(*row) for row in zip(logits, features, strict=True)]


def _masks(
    target: JointReader, ancestors: Sequence[Tensor], caches: Sequence[KeyValueCache]
) -> Tensor | dict[str, Tensor]:
    """Every row's own mask (N, T + N) at the left of its rows of (1, 1, M, L), one for each kind of layer."""
    longest = max(cache.length + len(own) for own, cache in zip(ancestors, caches, strict=True))

    def packed(window: int | None = None, chunk: int | None = None) -> Tensor:
        each = (
            masks.tree_mask(own, cache.length, target.dtype, window, chunk=chunk)
            for own, cache in zip(ancestors, caches, strict=True)
        )
        return torch.cat([pad(mask, (0, longest - mask.shape[-1])) for mask in each], dim=2)

    return masks.by_kind(attention_shape(target.config), packed)


@dataclass(frozen=True)
class RowStates:
    """Keys or values of every row, B of (1, kv_heads, T + N, d), in place of the tensor that a cache returns."""

    states: list[Tensor]
    sizes: list[int]  # nodes of each row
    attend: str  # the model's own kind of attention, by its name


@dataclass(frozen=True)
class _Rows:
    """What a model takes for its cache: writes the keys of every row behind those of its own cache."""

    caches: list[KeyValueCache]
    sizes: list[int]
    attend: str

    def get_seq_length(self, *_: Any) -> int:  # the model is given positions and masks
        return 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[RowStates, RowStates]:
        """(1, kv_heads, M, d) each."""
        rows = zip(self.caches, keys.split(self.sizes, dim=2), values.split(self.sizes, dim=2), strict=True)
        held = [cache.write(layer, key, value) for cache, key, value in rows]
        return self._states([key for key, _ in held]), self._states([value for _, value in held])

    def _states(self, states: list[Tensor]) -> RowStates:
        return RowStates(states, self.sizes, self.attend)


def joint_attention(
    module: nn.Module, query: Tensor, key: RowStates, value: RowStates, attention_mask: Tensor, **others: Any
) -> tuple[Tensor, None]:
    """The model's own attention, row by row: query (1, heads, M, d), mask (1, 1, M, L) -> (1, M, heads, d)."""
    attend = _own_attention(module, key.attend)
    queries, sights = query.split(key.sizes, dim=2), attention_mask.split(key.sizes, dim=2)
    rows = zip(queries, key.states, value.states, sights, strict=True)
    outputs = [
        attend(module, own, keys, values, mask[..., : keys.shape[2]], **others)[0] for own, keys, values, mask in rows
    ]
    return torch.cat(outputs, dim=1), None


def _own_attention(module: nn.Module, name: str) -> Callable[..., tuple[Tensor, Any]]:
    """As the model's file looks it up: the eager kind is a function of that file."""
    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[name]


@contextmanager
def _attending_by_row(target: JointReader) -> Iterator[str]:
    """For one pass, during the model's turn; hands out the name of the model's own."""
    AttentionInterface.register(ATTENTION_NAME, joint_attention)
    config = target.config
    before = config._attn_implementation
    config._attn_implementation = ATTENTION_NAME
    try:
        yield before
    finally:
        config._attn_implementation = before


_known: dict[tuple[str, ...], str | None] = {}


def why_not_together(target: JointReader) -> str | None:
    """Why trees of several sequences cannot share a pass of this target; None where they can.

    Tried once a process for every configuration, precision and kernel, as trees are.
    """
    if target.has_changing_angles:
        return "its rotary angles change with the length of what is read"
    if reason := target.suitability.plain or target.suitability.trees:
        return reason
    key = trial_key(target)
    if key not in _known:
        _known[key] = _tried(target)
    return _known[key]


def _tried(target: JointReader) -> str | None:
    try:
        apart = _apart(target)
    except ArithmeticError:  # no numbers: decoding says so
        return None
    except Exception as error:  # whatever a foreign model raises: it is the answer
        return f"a pass over several sequences ends in {type(error).__name__} ({first_line(error)})"
    bound = HALF_TOLERANCE if is_rounded(target) else TOLERANCE[target.dtype]
    return (
        None if apart <= bound else f"the logits of a pass over several sequences differ by {apart:.2g} of their spread"
    )


@dataclass(frozen=True)
class TreeOf:
    """A tree behind a cache, to be tried."""

    tokens: Tensor
    ancestors: Tensor
    cache: KeyValueCache


def _apart(target: JointReader) -> float:
    """How far logits of a joint pass are from those of each row alone."""
    rows = []
    for length, parents in TRIAL:
        ids = (torch.arange(length + len(parents), device=target.device) * 7 + length) % target.vocab_size
        cache = target.new_cache()
        assert isinstance(cache, KeyValueCache), "other caches were refused for trees"
        target.prefill(ids[:length], cache)
        rows.append(TreeOf(ids[length:], masks.ancestor_matrix(parents), cache))
    alone = []
    for row in rows:
        alone.append(target.score_unchecked(row.tokens, row.ancestors, row.cache).logits)
        row.cache.keep(row.tokens[:0])
    together = [output.logits for output in _score_eagerly(target, rows)]
    return max(spread_apart(got, wanted) for got, wanted in zip(together, alone, strict=True))
