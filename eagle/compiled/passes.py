"""Passes of a target over a few nodes by one graph, tried against the eager ones before they are used.

On a CPU the graph is compiled, on a CUDA device recorded (`eagle.compiled.recorded_passes`).

Letters: B trees, N nodes of one including the root, M nodes of all, L layers, H hidden size, V vocabulary.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from eagle.compiled.graph import DTYPES, MOST_NODES, TreePass, in_groups, trace
from eagle.compiled.lowering import Run, lowered
from eagle.compiled.recorded_passes import RecordedPass
from eagle.compiled.sight import padded, sights, table
from eagle.dtypes import dtype_name
from eagle.engine import masks
from eagle.engine.cache import KeyValueCache, TargetCache
from eagle.engine.joint import TreeOf
from eagle.engine.protocol import Scored, SmallPass, TargetOutput
from eagle.engine.shape import AttentionShape, attention_shape
from eagle.engine.suitability import HALF_TOLERANCE, TOLERANCE, first_line, is_rounded, spread_apart
from eagle.engine.target import Target

MODES = ("off", "auto", "on")
TRIAL_PREFIX = 37  # tokens: two blocks of the kernel and a part of a third
TRIAL_PARENTS = (-1, 0, 0, 1, 2, 2, 5)


class CompiledPass:
    """What `Target` reads a few nodes with: the same numbers as its eager pass, but for sums in another order."""

    shares_passes = True

    def __init__(self, target: Target, run: Run, is_demanded: bool = False):
        """is_demanded: what cannot be compiled, the head of this target too, is an error and no message."""
        self.is_demanded = is_demanded
        self._run, self._shape = run, attention_shape(target.config)
        self._dtype = target.dtype

    def takes(self, num_nodes: int, cache: TargetCache, dtype: torch.dtype) -> bool:
        """See `SmallPass.takes`. All other passes are eager."""
        is_small = num_nodes <= MOST_NODES and dtype == self._dtype
        return is_small and isinstance(cache, KeyValueCache) and cache.is_filled

    def score(self, tokens: Tensor, ancestors: Tensor, cache: KeyValueCache, layers: Sequence[int]) -> TargetOutput:
        """See `SmallPass.score`."""
        num_nodes = len(tokens)
        logits, features = self._read([padded(tokens, ancestors)], [cache], layers)
        cache.appended(num_nodes)
        return TargetOutput(logits[:num_nodes], features[:num_nodes])

    def score_together(self, trees: Sequence[Scored], layers: Sequence[int]) -> list[TargetOutput]:
        """See `SmallPass.score_together`. In as few passes as take all nodes."""
        outputs: list[TargetOutput] = []
        for group in in_groups(trees, [len(tree.tokens) for tree in trees]):
            if len(group) == 1:
                outputs.append(self.score(group[0].tokens, group[0].ancestors, group[0].cache, layers))
                continue
            sizes = [len(tree.tokens) for tree in group]
            read = self._read([(tree.tokens, tree.ancestors) for tree in group], [tree.cache for tree in group], layers)
            for tree, *output in zip(group, *(states.split(sizes) for states in read), strict=True):
                tree.cache.appended(len(tree.tokens))
                outputs.append(TargetOutput(*output))
        return outputs

    def _read(
        self, trees: Sequence[tuple[Tensor, Tensor]], caches: Sequence[KeyValueCache], layers: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Logits (M, V) and features (M, 3H) of trees, of which the caches hold nothing yet."""
        tokens, ancestors = [own for own, _ in trees], [own for _, own in trees]
        lengths = [cache.length for cache in caches]
        positions = [length + masks.depths(own) for length, own in zip(lengths, ancestors, strict=True)]
        sight = sights(ancestors, lengths, self._shape)
        buffers = [cache.buffers(len(own)) for cache, own in zip(caches, tokens, strict=True)]  # held for the pass
        places = table([list(zip(keys, values, strict=True)) for keys, values in buffers])
        each = list(sight.values()) if isinstance(sight, dict) else [sight]
        logits, *states = self._run(torch.cat(tokens), torch.cat(positions), *each, places)
        return logits, torch.cat([states[layer] for layer in layers], dim=-1)


def compile_passes(target: Target, mode: str, notice: Callable[[str], None] | None = None) -> None:
    """Let a target read trees and single tokens by a compiled graph: `mode` as in MODES.

    on     Raises ValueError where that cannot be, with the reason
    auto   where that cannot be, or where it is not known to pay, one message, and passes stay eager
    """
    if mode == "off":
        return
    if (reason := why_not(target)) is None:
        try:
            target.small_pass = _tried(target, mode == "on")
            return
        except Exception as error:  # of a foreign model while it is traced, of a compiler: it is the answer
            reason = first_line(error) or type(error).__name__
    refuse(f"{target.name} cannot be compiled: {reason}", mode == "on", notice)


def refuse(told: str, is_demanded: bool, notice: Callable[[str], None] | None = None) -> None:
    """Raises ValueError where compiled passes were demanded; else says what stays as it is."""
    if is_demanded:
        raise ValueError(f"{told}; leave --compile out")
    (notice or _to_stderr)(f"{told}; its passes stay eager")


def why_not(target: Target) -> str | None:
    """What is known without a try; None where it may be possible."""
    is_recorded = target.device.type == "cuda"
    if len(getattr(target.model, "hf_device_map", None) or {}) > 1:
        return "its layers lie on several devices"
    if not is_recorded and (reason := _why_no_graph(target)):
        return reason
    if target.has_changing_angles:
        return "its rotary angles change with the length of what is read"
    if reason := target.suitability.plain or target.suitability.trees:
        return reason
    return None


def _why_no_graph(target: Target) -> str | None:
    if target.device.type != "cpu":
        return f"compiled passes are for one CPU or CUDA device, the model is on {target.device}"
    if target.dtype not in DTYPES:
        return f"its numbers are {dtype_name(target.dtype)}, the kernels know bfloat16 and float32"
    if not hasattr(torch._inductor, "standalone_compile") or find_spec("torch._inductor.standalone_compile") is None:
        return f"torch {torch.__version__} cannot keep a compiled graph: 2.8 and newer can"
    return None


def _tried(target: Target, is_demanded: bool) -> SmallPass:
    found: SmallPass
    if target.device.type == "cuda":
        found = RecordedPass(target, is_demanded)
    else:
        shape = attention_shape(target.config)
        kinds, identity = _kinds(shape), (shape, target.model.config.to_json_string(use_diff=False))
        run = lowered(target.model, "the target's pass", identity, lambda: _trace(target, kinds))
        found = CompiledPass(target, run, is_demanded)
    compare(target, found)
    return found


def _trace(target: Target, kinds: Sequence[str]) -> torch.export.ExportedProgram:
    if not _read_some(target).is_filled:
        raise ValueError("some of its layers have no keys and values of their own")
    tree_pass = TreePass(target.model, list(target.layers), target.cache_argument, kinds)
    return trace(tree_pass, len(target.layers), max(len(kinds), 1))


def _kinds(shape: AttentionShape) -> list[str]:
    """Names of the kinds of layers that have masks of their own, in the order in which sights are made."""
    found = sights([torch.ones(1, 1, dtype=torch.bool)], [1], shape)
    return list(found) if isinstance(found, dict) else []


def _read_some(target: Target, num_tokens: int = TRIAL_PREFIX) -> KeyValueCache:
    cache = target.new_cache()
    if not isinstance(cache, KeyValueCache):
        raise ValueError("it keeps a cache of its own kind")
    size = min(num_tokens, target.context_limit - len(TRIAL_PARENTS) - 1)
    target.prefill(torch.arange(size, device=target.device) * 7 % target.vocab_size, cache)
    return cache


@torch.inference_mode()
def compare(target: Target, compiled: SmallPass) -> None:
    """Raises ValueError where trees' logits or features are not the eager ones; the bound is that of trees.

    Of one tree, and of two others behind a text each, as rows of a batch.
    """
    every = masks.ancestor_matrix(TRIAL_PARENTS).to(target.device)
    ids = torch.arange(3 * len(every), device=target.device) * 5 % target.vocab_size
    cache, other = _read_some(target), _read_some(target, TRIAL_PREFIX // 2)
    first = TreeOf(ids[: len(every)], every, cache)
    rows = [TreeOf(ids[-3:], every[:3, :3], other), TreeOf(ids[-len(every) :], every, cache)]
    wanted = [target.score_unchecked(tree.tokens, tree.ancestors, _emptied(tree.cache)) for tree in (first, *rows)]
    got = [compiled.score(first.tokens, first.ancestors, _emptied(cache), target.feature_layers)]
    for tree in rows:
        _emptied(tree.cache)
    got += compiled.score_together(rows, target.feature_layers)
    bound = HALF_TOLERANCE if is_rounded(target) else TOLERANCE[target.dtype]
    for one, eager in zip(got, wanted, strict=True):
        for what, mine, own in (("logits", one.logits, eager.logits), ("features", one.features, eager.features)):
            if not (apart := spread_apart(mine, own)) <= bound:
                raise ValueError(f"its compiled {what} differ by {apart:.2g} of their spread from the eager ones")


def _emptied(cache: KeyValueCache) -> KeyValueCache:
    """Without what is not committed."""
    cache.truncate(cache.length)
    return cache


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
