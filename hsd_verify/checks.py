"""Refusals: what could not have been drafted, or is not a law, is named and sent back; nothing is repaired.

Letters: N nodes including the root, V vocabulary.

Checked when a `DraftTree` is built: its structure, and the proposal law of every sampled node. Checked by `law`: that
every target row is a law. Checked by `verify`: the same for every row that can influence the verdict, i.e. the rows of
nodes with children and the row the token is drawn from; the rows of other leaves are not read at all, which saves most
of the memory traffic. A row is read twice, for its sum and for its minimum.

To ask an accelerator is to wait for it. So proposal laws that lie on one are checked by `law` and `verify`, and
`verify` reads what there is to check together with its verdict (`at_once.py`): a wrong law is refused before anything
is emitted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hsd_verify.topology import Forest, runs
from hsd_verify.transfer import to_host

INTEGERS = (torch.int64, torch.int32, torch.int16)  # as an index int8 and uint8 are too small, and bool is a mask
# How far a row may sum from 1. A float32 softmax over 130,000 tokens is off by a few 1e-6 in the worst case, and a
# float64 one by 1e-15; a forgotten temperature, mask or renormalisation is off by orders of magnitude more.
SUM_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def check_tree(tree: Forest) -> None:
    """Raise `ValueError` unless the tree is well formed and every sampled node could have been drawn.

    Its columns passed `check_vectors`.
    """
    _check_structure(tree)
    if any(tree.sampled_list):
        _check_fit_of_proposals(tree)
        if tree.proposals.is_cpu:
            _check_proposals(tree)


def check_target(tree: Forest, target_probs: Tensor, leaves: bool = True) -> Tensor:
    """Sum of every target row, (N,); raises `ValueError` unless `target_probs` (N, V) holds laws fitting the tree.

    `leaves=False` reads the rows of nodes with children only, and reports 1 for the others.
    """
    check_fit(tree, target_probs)
    check_waiting(tree)
    if leaves:
        return check_laws(target_probs, "target_probs")
    measured = torch.stack([target_probs.new_ones(tree.num_nodes), target_probs.new_zeros(tree.num_nodes)])  # (2, N)
    for nodes in tree.inner_runs:
        measured[:, nodes] = measure(target_probs[nodes])
    refuse_wrong_rows("target_probs", range(tree.num_nodes), measured)
    return measured[0]


def check_rows(tree: Forest, probs: Tensor, nodes: Sequence[int]) -> Tensor:
    """Row sums (n,) of the target's laws of some nodes, probs (n, V); raises `ValueError` where they do not fit."""
    check_dtype(probs, "target_probs")
    if probs.dim() != 2 or len(probs) != len(nodes):
        raise ValueError(f"laws of {len(nodes)} nodes have shape {tuple(probs.shape)}: form ({len(nodes)}, V)")
    _check_vocabulary(tree, probs)
    return check_laws(probs, "target_probs", nodes)


def check_laws(probs: Tensor, name: str, nodes: Sequence[int] | None = None) -> Tensor:
    """Row sums (n,) of probs (n, V); `nodes` names the rows in messages when they are not 0..n-1."""
    check_dtype(probs, name)
    measured = measure(probs)
    refuse_wrong_rows(name, nodes or range(len(probs)), measured)
    return measured[0]


def measure(probs: Tensor) -> Tensor:
    """What tells a law from other rows (n, V): sums and minima, (2, n)."""
    return torch.stack([probs.sum(-1), probs.amin(-1)])


def refuse_wrong_rows(name: str, nodes: Sequence[int], measured: Tensor) -> None:
    """Raise `ValueError` for the first row that `measure` (2, n) shows to be no law; NaN fails both comparisons."""
    tolerance = SUM_TOLERANCE[measured.dtype]
    sums, lows = measured.tolist()  # one transfer; a loop over numbers beats five tiny kernels
    for row, (total, low) in enumerate(zip(sums, lows, strict=True)):
        if not (abs(total - 1) <= tolerance and low >= 0):
            raise ValueError(_describe_row(name, nodes[row], total, low))


def check_fit(tree: Forest, target_probs: Tensor) -> None:
    """Raise `ValueError` unless the rows are laws of this tree's nodes, by their shape and type alone."""
    check_dtype(target_probs, "target_probs")
    num_nodes, shape = tree.num_nodes, tuple(target_probs.shape)
    if len(shape) != 2 or shape[0] != num_nodes:
        raise ValueError(
            f"target_probs has shape {shape}, the tree has {num_nodes} nodes: "
            f"pass ({num_nodes}, V), row v being the target's law after node v"
        )
    _check_vocabulary(tree, target_probs)


def _check_vocabulary(tree: Forest, target_probs: Tensor) -> None:
    vocab_size = target_probs.shape[1]
    if tree.draft_probs is not None:
        _check_alike(tree.draft_probs, target_probs)
    if max(tree.token_list[1:], default=0) >= vocab_size:
        token = max(tree.token_list[1:])
        node = tree.token_list.index(token, 1)
        raise ValueError(
            f"node {node} has token {token}: target_probs knows {vocab_size} tokens, 0 to {vocab_size - 1}"
        )


def _check_alike(draft_probs: Tensor, target_probs: Tensor) -> None:
    if draft_probs.shape[1] != target_probs.shape[1]:
        raise ValueError(
            f"draft_probs has shape {tuple(draft_probs.shape)}, target_probs {tuple(target_probs.shape)}: "
            "scatter the draft's law into the target's vocabulary"
        )
    if draft_probs.dtype != target_probs.dtype:
        raise ValueError(f"draft_probs is {draft_probs.dtype}, target_probs {target_probs.dtype}: promote the narrower")


def check_dtype(probs: Tensor, name: str) -> None:
    if not isinstance(probs, Tensor):
        raise ValueError(f"{name} is a {type(probs).__name__}: pass a tensor of laws, (N, V)")
    if probs.dtype not in SUM_TOLERANCE:
        raise ValueError(
            f"{name} is {probs.dtype}, laws must be float32 or float64: "
            "promote the logits before the softmax, `logits.float().softmax(-1)`"
        )


def _describe_row(name: str, node: int, total: float, lowest: float) -> str:
    where = f"{name}[{node}] (node {node})"
    if not lowest >= 0:
        return f"{where} has the entry {lowest}: pass probabilities, the softmax of the logits, free of NaN"
    return f"{where} sums to {total}, not 1: renormalise after temperature, top-k and top-p, or pass a softmax"


def _check_structure(tree: Forest) -> None:
    if tree.num_nodes == 0 or tree.parent_list[0] != -1:
        raise ValueError(f"parents is {list(tree.parent_list[:1])}...: node 0 is the root, give it the parent -1")
    for node, parent in enumerate(tree.parent_list[1:], start=1):
        if not 0 <= parent < node:
            raise ValueError(f"node {node} has parent {parent}: list parents before children, 0 <= parent < {node}")
    if tree.sampled_list[0]:
        raise ValueError("node 0 is marked sampled: the root is already part of the text, set sampled[0] = False")
    for node, token in enumerate(tree.token_list[1:], start=1):
        if token < 0:
            raise ValueError(f"node {node} has token {token}: tokens are vocabulary ids, 0 or more")


def check_vectors(parents: Tensor, tokens: Tensor, sampled: Tensor | None = None) -> None:
    """Raise `ValueError` unless these are the columns of one tree, by their shapes and types alone."""
    _check_vector("parents", parents, parents.numel())
    _check_vector("tokens", tokens, parents.numel())
    if sampled is None:
        return
    _check_vector("sampled", sampled, parents.numel())
    if sampled.dtype != torch.bool:
        raise ValueError(f"sampled is {sampled.dtype}: pass booleans, True where the node was drawn at random")


def _check_vector(name: str, vector: Tensor, length: int) -> None:
    if vector.dim() != 1 or len(vector) != length:
        raise ValueError(f"{name} has shape {tuple(vector.shape)}: pass one entry a node, ({length},)")
    if name != "sampled" and vector.dtype not in INTEGERS:
        raise ValueError(f"{name} is {vector.dtype}: pass integers (int64)")


def _check_fit_of_proposals(tree: Forest) -> None:
    """By shape, type and structure alone."""
    if tree.draft_probs is None:
        node = tree.sampled_list.index(True)
        raise ValueError(f"node {node} is sampled but draft_probs is None: pass the law it was drawn from")
    check_dtype(tree.draft_probs, "draft_probs")
    shape = tuple(tree.draft_probs.shape)
    if len(shape) != 2 or shape[0] != tree.num_nodes:
        raise ValueError(f"draft_probs has shape {shape}, the tree has {tree.num_nodes} nodes: one row a node, (N, V)")
    drawn = _drawn(tree)
    if max(tree.token_list[node] for node in drawn) >= shape[1]:
        raise ValueError(f"draft_probs knows {shape[1]} tokens, but {max(tree.token_list)} is among those sampled")
    if not tree.replacement:
        _check_distinct(tree, drawn)


def _drawn(tree: Forest) -> list[int]:
    return [node for node, sampled in enumerate(tree.sampled_list) if sampled]


def _drawing(tree: Forest, drawn: Sequence[int]) -> list[int]:
    """Parents of drawn nodes, ascending."""
    return sorted({tree.parent_list[node] for node in drawn})


def _check_proposals(tree: Forest) -> None:
    """The laws themselves, where they lie on the CPU; rows of nodes that draw nothing are not read."""
    drawn = _drawn(tree)
    for rows in runs(_drawing(tree, drawn)):
        check_laws(tree.proposals[rows], "draft_probs", range(rows.start, rows.stop))
    parents, tokens = [tree.parent_list[c] for c in drawn], [tree.token_list[c] for c in drawn]
    _refuse_impossible(tree, drawn, tree.proposals[parents, tokens].tolist())


def waiting(tree: Forest) -> list[Tensor]:
    """What is still to be checked of a tree whose proposal laws lie on an accelerator, for `refuse_waiting`; or []."""
    if tree.draft_probs is None or tree.draft_probs.is_cpu or not any(tree.sampled_list):
        return []
    return [measure(tree.draft_probs), tree.entries(tree.draft_probs)]  # (2, N), (N,)


def refuse_waiting(tree: Forest, found: Sequence[Tensor]) -> None:
    """Raise `ValueError` as a tree on the CPU does at its construction, from what `waiting` found, on the host."""
    if not found:
        return
    drawn, (measured, entries) = _drawn(tree), found
    drawing = _drawing(tree, drawn)
    refuse_wrong_rows("draft_probs", drawing, measured[:, drawing])
    _refuse_impossible(tree, drawn, entries[drawn].tolist())


def check_waiting(tree: Forest) -> None:
    """The same in one call, for which an accelerator is waited for."""
    refuse_waiting(tree, to_host(*waiting(tree)))


def _refuse_impossible(tree: Forest, drawn: Sequence[int], probs: Sequence[float]) -> None:
    """Raise `ValueError` for the first drawn node that its law gives nothing to."""
    for child, prob in zip(drawn, probs, strict=True):
        if prob <= 0:
            parent, token = tree.parent_list[child], tree.token_list[child]
            raise ValueError(
                f"node {child} is sampled with token {token}, to which draft_probs[{parent}] gives {prob}: "
                "it cannot have been drawn; pass the law it was drawn from or mark it deterministic"
            )


def _check_distinct(tree: Forest, drawn: list[int]) -> None:
    seen: set[tuple[int, int]] = set()
    for child in drawn:
        parent, token = tree.parent_list[child], tree.token_list[child]
        if (parent, token) in seen:
            raise ValueError(
                f"node {child} repeats token {token} of a sampled sibling below node {parent}: "
                "drawn without replacement it cannot; pass replacement=True or drop the duplicate"
            )
        seen.add((parent, token))
