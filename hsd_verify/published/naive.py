"""Naive HSD (arXiv 2601.05724): uncapped joint ratios, paid for with resampling to the end of the block.

Letters: N nodes including the root, V vocabulary.

A reference for study. Where the scan stops above the leaf, the missing probability mass lies on whole continuations,
not on one token: every further token up to the depth of the chain has to be drawn from the excess of its own branch,

    [p(u, x) - q(u, x)]+        p, q: joint probabilities of the text u since the root, and x

whose laws are not in the tree. So one round is not a function of (tree, target_probs): `emissions` takes the models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from torch import Tensor

from hsd_verify.outcome import Law
from hsd_verify.published.chain import hierarchical_law, scaled_difference
from hsd_verify.refusals import require_chain
from hsd_verify.tree import DraftTree

Text = tuple[int, ...]
Model = Callable[[Text], Tensor]  # text so far -> (V,) law of the next token


def naive_law(tree: DraftTree, target_probs: Tensor, totals: Tensor) -> Law:
    """Law of naive HSD on a chain of one token, where nothing has to be resampled; target_probs (N, V).

    Raises `ValueError` for anything longer: stopping with one token, as every other law does, would be lossy.
    """
    if max(tree.depth) > 1:
        raise ValueError(
            f"verifier 'naive' resamples outside the tree after node 0 of a path of {max(tree.depth)} tokens: use "
            "hsd_verify.published.naive.emissions or enumerate.output_law, which have the models, or verifier 'hsd'"
        )
    return scan_law(tree, target_probs)


def scan_law(tree: DraftTree, target_probs: Tensor) -> Law:
    """Where the scan stops and the *first* resampled token; lossless only together with the resampling that follows."""
    require_chain(tree, "naive")
    return hierarchical_law(tree, target_probs, cap=math.inf)


def emissions(
    tree: DraftTree, target_probs: Tensor, target: Model, draft: Model, prefix: Text = ()
) -> Iterator[tuple[Text, float]]:
    """Everything one round after `prefix` can emit, with probabilities: a resampled block, or the block and a bonus."""
    law, depth = scan_law(tree, target_probs), max(tree.depth)
    for node, stop in enumerate(law.stop.tolist()):
        if stop > 0:
            accepted = tree.path_tokens(node)
            for token, prob in enumerate(law.residual(node).tolist()):
                for text, rest in _resample((*accepted, token), depth, target, draft, prefix):
                    yield text, stop * prob * rest


def _resample(text: Text, depth: int, target: Model, draft: Model, prefix: Text) -> Iterator[tuple[Text, float]]:
    """Continuations of `text` to `depth` tokens, each token from the excess of its branch."""
    if len(text) >= depth:
        yield text, 1.0
        return
    log_ratio = _log_ratio(text, target, draft, prefix)
    excess = scaled_difference(target(prefix + text), draft(prefix + text), log_ratio).relu_()  # (V,)
    for token, mass in enumerate((excess / excess.sum()).tolist()):
        if mass > 0:
            for whole, rest in _resample((*text, token), depth, target, draft, prefix):
                yield whole, mass * rest


def _log_ratio(text: Text, target: Model, draft: Model, prefix: Text) -> float:
    """log p(text) / q(text) after `prefix`; inf where the draft cannot produce it."""
    return _log_prob(text, target, prefix) - _log_prob(text, draft, prefix)


def _log_prob(text: Text, model: Model, prefix: Text) -> float:
    return sum(float(model(prefix + text[:i])[token].log()) for i, token in enumerate(text))
