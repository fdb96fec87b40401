"""The table of verifiers, and the two calls users make: `law` and `verify`.

Letters: N nodes including the root, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hsd_verify import checks
from hsd_verify.at_once import Rule, verdict_at_once, verdict_of_law
from hsd_verify.draw import take_uniforms
from hsd_verify.lazy import hsd_verdict
from hsd_verify.outcome import Law, Verdict, verdict_of
from hsd_verify.published.chain import block_law, hsd_capped_law
from hsd_verify.published.multidraft import multidraft_law
from hsd_verify.published.naive import naive_law
from hsd_verify.published.tokenwise import tokenwise_law
from hsd_verify.published.traversal import traversal_law
from hsd_verify.recursion import hsd_law
from hsd_verify.target_rows import FormLaws, TargetRows
from hsd_verify.tree import DraftTree
from hsd_verify.walk import greedy_law, walk_law

VERIFIERS: dict[str, Rule] = {
    "greedy": greedy_law,
    "walk": walk_law,
    "tokenwise": tokenwise_law,
    "block": block_law,
    "traversal": traversal_law,
    "hsd": hsd_law,
    "hsd_capped": hsd_capped_law,
    "naive": naive_law,
    "hsd_multidraft": multidraft_law,
}


def law(tree: DraftTree, target_probs: Tensor, verifier: str = "hsd") -> Law:
    """Exact law of a verifier's outcome on one tree; target_probs (N, V), row v = the target's law after node v.

    Raises `ValueError` when a target row is not a law, when the verifier does not apply to the tree (the message says
    which do), or when there is no such verifier.
    """
    rule = find_rule(verifier)
    _check_tree(tree)
    return rule(tree, target_probs, checks.check_target(tree, target_probs))


def verify(
    tree: DraftTree,
    target_probs: Tensor | FormLaws,
    verifier: str = "hsd",
    generator: torch.Generator | None = None,
) -> Verdict:
    """Draw how much of the tree is kept and what follows it: one draw from `law(tree, target_probs, verifier)`.

    `target_probs` (N, V), or a function that forms the rows of the nodes it is asked for, an index (n,) or a slice ->
    (n, V): half of a tree are leaves, and the row of one is needed only where the verdict ends.
    `generator` must live on the device of the laws; None draws from torch's default. Errors as in `law`, but rows
    of leaves where the verdict does not end are neither read nor checked. On a CPU `hsd` works out only the part of its
    law that the draw depends on; on an accelerator, where waiting for every small result costs more than the passes it
    saves, all of it is worked out there and the host waits once. The same numbers from the generator give the same
    verdict, but for `walk` (`at_once.py`).
    """
    rule = find_rule(verifier)
    _check_tree(tree)
    if not callable(target_probs):
        checks.check_dtype(target_probs, "target_probs")
    with torch.inference_mode():  # a third of the time of these many small operations is bookkeeping for gradients
        if not _is_on_cpu(tree, target_probs):
            probs = _all_rows(target_probs)
            return verdict_at_once(tree, probs, verifier, rule, take_uniforms(tree, probs.device, generator))
        if verifier != "hsd":
            probs = _all_rows(target_probs)
            return verdict_of_law(rule, tree, probs, take_uniforms(tree, probs.device, generator))
        if isinstance(target_probs, Tensor):
            return _verify_lazily(TargetRows.given(tree, target_probs), generator)
        return _verify_lazily(TargetRows.formed(tree, target_probs), generator)


def _is_on_cpu(tree: DraftTree, target_probs: Tensor | FormLaws) -> bool:
    return tree.parents.is_cpu and (not isinstance(target_probs, Tensor) or target_probs.is_cpu)


def _all_rows(target_probs: Tensor | FormLaws) -> Tensor:
    return target_probs if isinstance(target_probs, Tensor) else target_probs(slice(None))  # a slice copies nothing


def _verify_lazily(rows: TargetRows, generator: torch.Generator | None) -> Verdict:
    uniforms = take_uniforms(rows.tree, rows.probs.device, generator)  # (N + 1,)
    return verdict_of(rows.tree, *hsd_verdict(rows, uniforms))


def find_rule(verifier: str) -> Rule:
    """The rule of a verifier; raises `ValueError` naming the verifiers there are."""
    if not isinstance(verifier, str) or verifier not in VERIFIERS:
        raise ValueError(f"no verifier {verifier!r}: choose one of {', '.join(VERIFIERS)}")
    return VERIFIERS[verifier]


def _check_tree(tree: DraftTree) -> None:
    if not isinstance(tree, DraftTree):
        raise ValueError(f"tree is a {type(tree).__name__}: pass a DraftTree, which checks what it is given")
