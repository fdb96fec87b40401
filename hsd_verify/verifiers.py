"""The table of verifiers, and the two calls users make: `law` and `verify`.

Letters: N nodes including the root, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hsd_verify import checks
from hsd_verify.draw import draw_at, take_uniforms
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

Rule = Callable[[DraftTree, Tensor, Tensor], Law]  # tree, target_probs (N, V), its row sums (N,) -> law

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
    saves, the law is formed. The same numbers from the generator give the same verdict.
    """
    rule = find_rule(verifier)
    _check_tree(tree)
    if not callable(target_probs):
        checks.check_dtype(target_probs, "target_probs")
    with torch.inference_mode():  # a third of the time of these many small operations is bookkeeping for gradients
        is_lazy = verifier == "hsd" and tree.parents.is_cpu
        if not isinstance(target_probs, Tensor):
            if is_lazy:
                return _verify_lazily(TargetRows.formed(tree, target_probs), generator)
            target_probs = target_probs(slice(None))  # all of them; a slice copies nothing
        if is_lazy and target_probs.is_cpu:
            return _verify_lazily(TargetRows.given(tree, target_probs), generator)
        totals = checks.check_target(tree, target_probs, leaves=False)  # (N,)
        node, token = draw_at(rule(tree, target_probs, totals), take_uniforms(tree, target_probs.device, generator))
        if not tree.children[node]:
            checks.check_laws(target_probs[node][None], "target_probs", [node])
    return verdict_of(tree, node, token)


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
