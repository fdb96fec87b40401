"""What lossless means, as code: the exact law of the emitted text, over all drafts and all verdicts.

Letters: V vocabulary, `length` emitted tokens.

A verifier is lossless for a drafting process when `output_law` equals `text_law` for every target, up to rounding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from hsd_verify import verifiers
from hsd_verify.exact.processes import (
    Drafting,
    Model,
    Text,
    branching,
    chain,
    deterministic,
    hybrid,
    iid,
    paths,
    without_replacement,
)
from hsd_verify.published import naive
from hsd_verify.tree import DraftTree

__all__ = [
    "Drafting",
    "branching",
    "chain",
    "deterministic",
    "expected_tau",
    "hybrid",
    "iid",
    "output_law",
    "paths",
    "target_rows",
    "text_law",
    "total_variation",
    "without_replacement",
]

Process = Callable[[Text], Iterable[tuple[float, DraftTree]]]
Target = Model | Mapping[Text, Tensor] | Tensor


def output_law(drafting: Process, target: Target, verifier: str, length: int) -> Tensor:
    """Exact law of the first `length` tokens a decode loop emits, as a tensor of shape `(V,) * length`.

    `drafting(prefix)` lists `(probability, DraftTree)` pairs for the text emitted so far, a tuple that starts empty;
    their probabilities sum to 1. `chain`, `iid`, `without_replacement`, `deterministic`, `hybrid`, `paths`, `branching`
    and `Drafting` make such processes from a draft model. `target` gives the target's law of the next token: a callable
    from the text so far to (V,), a mapping with the same keys, or one (V,) tensor for every text. Rounds are chained:
    after each verdict the process is asked for trees that follow the longer text.

    Raises `ValueError` when the verifier refuses one of the trees.
    """
    return _law_after((), drafting, as_model(target), verifier, length)


def text_law(target: Target, length: int, prefix: Text = ()) -> Tensor:
    """The target's own law of `length` tokens after `prefix`, shape `(V,) * length`: what `output_law` has to equal."""
    model = as_model(target)
    law = model(prefix)  # (V,)
    if length == 1:
        return law
    return torch.stack([p * text_law(model, length - 1, (*prefix, x)) for x, p in enumerate(law)])


def total_variation(law: Tensor, other: Tensor) -> float:
    """Half the L1 distance of two laws of one shape."""
    return float((law - other).abs().sum()) / 2


def expected_tau(drafting: Process, target: Target, verifier: str, prefix: Text = ()) -> float:
    """Exact expected number of accepted draft tokens in the round after `prefix`."""
    model = as_model(target)
    return sum(
        prob * verifiers.law(tree, target_rows(tree, model, prefix), verifier).expected_tau
        for prob, tree in drafting(prefix)
    )


def target_rows(tree: DraftTree, target: Target, prefix: Text = ()) -> Tensor:
    """(N, V): the target's law after every node of a tree that follows `prefix`."""
    model = as_model(target)
    return torch.stack([model(prefix + tree.path_tokens(v)) for v in range(tree.num_nodes)])


def as_model(target: Target) -> Model:
    """`target` as a callable."""
    if isinstance(target, Tensor):
        return lambda text: target
    return target.__getitem__ if isinstance(target, Mapping) else target


def _law_after(prefix: Text, drafting: Process, target: Model, verifier: str, length: int) -> Tensor:
    """Law of the next `length` tokens, `(V,) * length`; after each outcome of one round comes another round."""
    if length == 0:
        return torch.ones((), dtype=torch.float64)
    law = torch.zeros((target(prefix).shape[0],) * length, dtype=torch.float64)
    for emitted, prob in _round(prefix, drafting, target, verifier, length).items():
        law[emitted] += prob * _law_after(prefix + emitted, drafting, target, verifier, length - len(emitted))
    return law


def _round(prefix: Text, drafting: Process, target: Model, verifier: str, length: int) -> dict[Text, float]:
    """Probability of what one round emits, cut to `length` tokens."""
    emitted: dict[Text, float] = defaultdict(float)
    for prob, tree in drafting(prefix):
        rows = target_rows(tree, target, prefix)  # (N, V)
        for text, mass in _emissions(prefix, tree, rows, drafting, target, verifier):
            emitted[text[:length]] += prob * mass
    return {text: mass for text, mass in emitted.items() if mass > 0}


def _emissions(
    prefix: Text, tree: DraftTree, rows: Tensor, drafting: Process, target: Model, verifier: str
) -> Iterator[tuple[Text, float]]:
    """What one round emits on one tree, with probabilities: the accepted path and the token after it."""
    if verifier == "naive":
        if not isinstance(drafting, Drafting):
            raise ValueError(
                "verifier 'naive' resamples with the draft model: pass a `Drafting`, e.g. chain(draft, depth)"
            )
        yield from naive.emissions(tree, rows, target, drafting.draft, prefix)
        return
    law = verifiers.law(tree, rows, verifier)
    for node, stop in enumerate(law.stop.tolist()):
        if stop > 0:
            accepted = tree.path_tokens(node)
            yield from (((*accepted, x), stop * prob) for x, prob in enumerate(law.residual(node).tolist()))
