"""Verdicts on an accelerator: the host waits once a verdict, whatever the verifier.

Letters: N nodes including the root, V vocabulary, K most sampled siblings, M most placed siblings.

    hsd      every level is weighed, the node found and its token drawn on the device; what comes back are two numbers,
             and beside them what there is to check
    walk     a token is drawn after every node, and the host follows them: the target walk as its name says. Verdicts
             have the law of `walk_law`; with equal numbers they are others than `draw_at` finds
    others   published rules, which go node by node: the laws are brought to the host and the verdict is reached there

The reference is the `Law` of the rule and `draw_at`, for both of which a device is waited for at every number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from hsd_verify import checks
from hsd_verify.draw import draw_at, draw_indices
from hsd_verify.outcome import Law, Verdict, verdict_of
from hsd_verify.recursion import weigh_forest
from hsd_verify.siblings import Siblings
from hsd_verify.transfer import to_device, to_host
from hsd_verify.tree import DraftTree
from hsd_verify.walk import verify_chosen

Rule = Callable[[DraftTree, Tensor, Tensor], Law]  # tree, target_probs (N, V), its row sums (N,) -> law


def verdict_at_once(tree: DraftTree, probs: Tensor, verifier: str, rule: Rule, uniforms: Tensor) -> Verdict:
    """The verdict at given numbers, `uniforms` (N + 1,), probs (N, V). Raises `ValueError` as `verify` does."""
    checks.check_fit(tree, probs)
    if verifier not in ("hsd", "walk") or tree.parents.device != probs.device:
        return _verdict_on_host(tree, probs, verifier, rule, uniforms)
    measured = checks.measure(probs)  # (2, N)
    decide = hsd_outcome if verifier == "hsd" else _tokens_of_all
    outcome, measured, *waiting = to_host(
        decide(tree, probs, measured[0], uniforms), measured, *checks.waiting(tree)
    )  # the one transfer
    checks.refuse_waiting(tree, waiting)
    _refuse_wrong_rows(measured, [node for node, children in enumerate(tree.children) if children])
    verdict = verify_chosen(tree, outcome) if verifier == "walk" else verdict_of(tree, *outcome.tolist())
    _refuse_wrong_rows(measured, [verdict.node])
    return verdict


def verdict_of_law(rule: Rule, tree: DraftTree, probs: Tensor, uniforms: Tensor) -> Verdict:
    """The verdict drawn from the rule's law at given numbers; rows of leaves are checked where it ends."""
    totals = checks.check_target(tree, probs, leaves=False)  # (N,)
    node, token = draw_at(rule(tree, probs, totals), uniforms)
    if not tree.children[node]:
        checks.check_laws(probs[node][None], "target_probs", [node])
    return verdict_of(tree, node, token)


def _verdict_on_host(tree: DraftTree, probs: Tensor, verifier: str, rule: Rule, uniforms: Tensor) -> Verdict:
    known = [] if tree.draft_probs is None else [tree.draft_probs]
    probs, uniforms, *known = to_host(probs, uniforms, *known)
    parents, tokens, sampled = (torch.tensor(one) for one in (tree.parent_list, tree.token_list, tree.sampled_list))
    here = DraftTree(parents, tokens, sampled, known[0] if known else None, tree.replacement)  # checks what is left to
    return verdict_of_law(rule, here, probs, uniforms)


def hsd_outcome(tree: DraftTree, probs: Tensor, totals: Tensor, uniforms: Tensor) -> Tensor:
    """Last accepted node and next token, (2,); probs (N, V), `totals` (N,) its row sums.

    Equal to `draw_at` of the law up to rounding. The root's token comes from the target's own row where nothing is left
    of it: see `lazy.py`.
    """
    tested, fire = weigh_forest(tree, probs, totals)
    places = _Places(tree, probs.shape[1])
    hits = uniforms[places.order] < fire[places.order]  # (N,)
    hits[-1:] = True  # the root ends what goes on to it
    node = places.order[hits.int().argmax(0, keepdim=True)]  # (1,)
    weights = _residual(tree, probs, tested, places, node)  # (V,)
    return torch.cat([node, draw_indices(weights, uniforms[-1])[None]])


class _Places:
    """What the host knows of a tree and the device asks by a node that only the device knows: one upload."""

    def __init__(self, tree: DraftTree, vocab_size: int):
        drawn = [tree.sampled_children(v) for v in range(tree.num_nodes)]
        drawing = [v for v, own in enumerate(drawn) if own]
        held = [[] if tree.replacement else own[:-1] for own in drawn]
        placed = [tree.placed_children(v) for v in range(tree.num_nodes)]
        tables = (_tokens(tree, nodes_of, vocab_size) for nodes_of in (held, placed))
        rows = [v if own else (drawing or [0])[0] for v, own in enumerate(drawn)]
        self.order, self.rows, self.held, self.placed = to_device([tree.post_order, rows, *tables], tree.parents.device)
        # order (N,): nodes as they are asked
        # rows (N,): whose proposal law is read for a node; of one that draws nothing it may hold anything
        # held (N, K - 1), placed (N, M): tokens of children; V, a column of its own, where there are none
        self.is_drawn_from = bool(drawing)


def _tokens(tree: DraftTree, nodes_of: Sequence[list[int]], vocab_size: int) -> list[list[int]]:
    tokens = [[tree.token_list[node] for node in nodes] for nodes in nodes_of]
    width = max(map(len, tokens))
    return [row + [vocab_size] * (width - len(row)) for row in tokens]


def _residual(tree: DraftTree, probs: Tensor, tested: Sequence[Siblings], places: _Places, node: Tensor) -> Tensor:
    """What is left (V,) of `node` (1,), not normalised, for whichever node it is: see `siblings.residual_of`."""
    row = probs[node]  # (1, V)
    left = row
    if tested:
        nodes = torch.cat([family.family.nodes for family in tested])  # those with children
        scales = torch.zeros(2, tree.num_nodes, dtype=torch.float64, device=probs.device)
        scales[0] = 1  # of leaves
        columns = ([one.own for one in tested], [one.taken for one in tested])
        scales[:, nodes] = torch.stack([torch.cat(column) for column in columns])
        own, taken = scales[:, node, None].to(probs.dtype)  # (1, 1) each
        left = row * own
        if places.is_drawn_from:
            left = left.addcmul(tree.proposals[places.rows[node]], -taken).relu_()
    left = pad(left, (0, 1))  # (1, V + 1)
    if places.held.shape[1]:
        left.scatter_(1, places.held[node], _held_values(tested, nodes, places.held)[node])
    left = left.scatter_(1, places.placed[node], 0.0)[:, :-1]
    return torch.where(left.sum() > 0, left, row)[0]


def _held_values(tested: Sequence[Siblings], nodes: Tensor, held: Tensor) -> Tensor:
    """What is left at the tokens `held` (N, K - 1), which no later sibling could draw."""
    width = held.shape[1]
    values = [one.at_tokens[:, :width] for one in tested]
    joined = torch.cat([pad(one, (0, width - one.shape[1])) for one in values])  # (n, K - 1)
    return joined.new_zeros(held.shape).index_copy_(0, nodes, joined)


def _tokens_of_all(tree: DraftTree, probs: Tensor, totals: Tensor, uniforms: Tensor) -> Tensor:
    """A token from the target's law after every node, (N,)."""
    return draw_indices(probs, uniforms[:-1])


def _refuse_wrong_rows(measured: Tensor, nodes: list[int]) -> None:
    checks.refuse_wrong_rows("target_probs", nodes, measured[:, nodes])
