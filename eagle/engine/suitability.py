"""Whether a target can score trees, found out by scoring one: the same texts read as a tree and path by path.

Losslessness needs every node to get the logits that plain decoding would give it. Some models count distances by cache
entries (ALiBi, local masks by index), so siblings look further apart than they are; some keep a running state, from
which a rejected draft cannot be taken back. Neither shows in a configuration, and both would change the text silently.

    prefix | r a s s s s s s z         z is a child of the root r, but nine entries behind it: where distances are
             |       \\       |         counted by entries, z and the nodes below it are far off
             b                y - x
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from eagle.engine.masks import ancestor_matrix
from eagle.engine.protocol import TargetOutput, TreeCache
from eagle.engine.shape import ATTENTION_KINDS

NUM_SIBLINGS = 24
PREFIX_LENGTH = 12
LONGEST_WINDOW = 512  # of windows that are not our own masks': a check behind a longer prefix would take seconds
# Root mean square of the difference over the spread of a row. Two right ways to read a text differ by sums in another
# order: 1e-6 in float32 and at most 0.03 in bfloat16 over a hundred families of tiny random models; wrong distances by
# 0.29 (gpt_neo) and more. Real models are deeper: plain decoding of SmolLM2 in bfloat16 differs from one pass by 0.08.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
HALF_TOLERANCE = 0.1


@dataclass(frozen=True)
class Suitability:
    """Why not, in words; None where it is right."""

    trees: str | None = None  # so that its texts are read token by token, with a cache of its own kind
    plain: str | None = None


class Reader(Protocol):
    """What is tried of a target."""

    model: PreTrainedModel
    config: PretrainedConfig

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def read(self, ids: Tensor) -> TargetOutput: ...

    def prefill(self, ids: Tensor, cache: Any) -> TargetOutput: ...

    def score_unchecked(self, tokens: Tensor, ancestors: Tensor, cache: Any) -> TargetOutput: ...


_known: dict[tuple[str, ...], Suitability] = {}


def suitability_of(
    target: Reader, preallocated: Callable[[], TreeCache], stock: Callable[[], TreeCache]
) -> Suitability:
    """Tried once a process for every configuration, precision and kernel: weights do not matter.

    Unless they give no numbers: then nothing is found out, and decoding says so.
    """
    key = trial_key(target)
    if key not in _known:
        try:
            _known[key] = _Trial(target).judge(preallocated, stock)
        except ArithmeticError:
            return Suitability()
    return _known[key]


def trial_key(target: Reader) -> tuple[str, ...]:
    """What the outcome of a trial depends on."""
    return (
        type(target.model).__name__,
        target.model.config.to_json_string(use_diff=False),
        str(target.config._attn_implementation),
        f"{target.dtype} on {target.device}",
        str(is_rounded(target)),
    )


def is_rounded(target: Reader) -> bool:
    """Whether two right readings of a text may differ by more than sums in another order do."""
    return target.dtype not in TOLERANCE or getattr(target.model, "is_quantized", False)


class _Trial:
    """One target under trial, with the texts it reads."""

    def __init__(self, target: Reader):
        self.target = target
        generator = torch.Generator().manual_seed(0)
        num_nodes = NUM_SIBLINGS + 5
        size = _prefix_length(target.config) + num_nodes + 1
        ids = torch.randint(target.config.vocab_size, (size,), generator=generator).to(target.device)
        self.prefix, self.tokens, self.next = ids[: -num_nodes - 1], ids[-num_nodes - 1 : -1], ids[-1:]
        last = NUM_SIBLINGS + 1
        # r; a and its siblings, the last of which is z; b below a; y below z; x below y
        self.parents = [-1, *[0] * last, 1, last, last + 2]
        self.paths = ([0, 1, last + 1], [0, last, last + 2, last + 3])

    def judge(self, preallocated: Callable[[], TreeCache], stock: Callable[[], TreeCache]) -> Suitability:
        tolerance = TOLERANCE.get(self.target.dtype, HALF_TOLERANCE)
        state = _running_state(self.target)
        if not state and is_rounded(self.target):
            tolerance = self._noise(preallocated)
        trees = state or self._why_not(lambda: self._tree(preallocated()), tolerance)
        # a model's own cache is what plain decoding is: only what is not the same model at all is refused
        return Suitability(trees, trees and self._why_not(lambda: self._plain(stock()), max(tolerance, HALF_TOLERANCE)))

    def _noise(self, preallocated: Callable[[], TreeCache]) -> float:
        """How far two right readings of one path are apart: more where models are deep or inputs have few bits."""
        try:
            with torch.inference_mode():
                return max(HALF_TOLERANCE, *(3 * spread_apart(*rows) for _, *rows in self._plain(preallocated())))
        except ArithmeticError:
            raise
        except Exception:  # told by the trial itself
            return HALF_TOLERANCE

    def _why_not(self, differences: Callable[[], Iterator[tuple[str, Tensor, Tensor]]], tolerance: float) -> str | None:
        try:
            with torch.inference_mode():
                errors = [(what, spread_apart(got, wanted)) for what, got, wanted in differences()]
        except ArithmeticError:
            raise
        except Exception as error:  # whatever a foreign model raises: it is the answer
            return f"its forward ends in {type(error).__name__} ({first_line(error)})"
        wrong = [(what, size) for what, size in errors if not size <= tolerance]  # nan is wrong too
        return next(
            (f"{what} differ by {size:.2g} of their spread from the same text read alone" for what, size in wrong), None
        )

    def _plain(self, cache: TreeCache) -> Iterator[tuple[str, Tensor, Tensor]]:
        """A prompt and tokens one by one, as plain decoding reads them, against one pass without a cache."""
        path = self.tokens[self.paths[1]]
        wanted = self.target.read(torch.cat([self.prefix, path])[None]).logits[0, -len(path) :]  # (n, V)
        self.target.prefill(self.prefix, cache)
        got = [self.target.prefill(token[None], cache).logits[0] for token in path]
        yield "the logits of tokens read one by one", torch.stack(got), wanted

    def _tree(self, cache: TreeCache) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The tree behind a prefix that was read in two pieces, and a token behind a path that was kept of it."""
        half = len(self.prefix) // 2
        self.target.prefill(self.prefix[:half], cache)
        self.target.prefill(self.prefix[half:], cache)
        scored = self.target.score_unchecked(self.tokens, ancestor_matrix(self.parents), cache).logits  # (N, V)
        for path in self.paths:
            text = torch.cat([self.prefix, self.tokens[path]])
            yield "the logits of a tree's nodes", scored[path], self.target.read(text[None]).logits[0, -len(path) :]
        kept = self.paths[1][:-1]
        cache.keep(torch.tensor(kept, device=self.tokens.device))
        text = torch.cat([self.prefix, self.tokens[kept], self.next])
        wanted = self.target.read(text[None]).logits[0, -1:]
        yield "the logits behind an accepted path", self.target.prefill(self.next, cache).logits, wanted


def _prefix_length(config: PretrainedConfig) -> int:
    """Beyond a window that is neither long nor one of our own masks': only there are such distances seen."""
    window = getattr(config, "window_size", None)
    return PREFIX_LENGTH + (window if isinstance(window, int) and window <= LONGEST_WINDOW else 0)


def _running_state(target: Reader) -> str | None:
    kinds = set(getattr(target.config, "layer_types", None) or ()) - ATTENTION_KINDS
    if kinds:
        return f"layers of kind {', '.join(sorted(map(str, kinds)))} keep a running state, which cannot be taken back"
    if getattr(target.model, "_is_stateful", False):
        return "its layers keep a running state, which cannot be taken back"
    return None


def first_line(error: Exception) -> str:
    """What a foreign model says, which may be a page."""
    return next(iter(str(error).strip().splitlines()), "")


def spread_apart(got: Tensor, wanted: Tensor) -> float:
    """Of rows (n, V): the difference over the spread, of the middle row in half precision and of the worst else.

    In half precision an expert may change places with its equal at one node, in right readings too; wrong distances
    are wrong at every node. Raises ArithmeticError where the target gives no finite numbers at all.
    """
    if not bool(wanted.isfinite().all()):
        raise ArithmeticError
    difference = (got.double() - wanted.double()).pow(2).mean(-1).sqrt()  # (n,)
    rows = difference / wanted.double().std(-1).clamp_min(1e-12)
    return float(rows.max() if got.dtype in TOLERANCE else rows.median())
