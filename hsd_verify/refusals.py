"""Which trees a verifier applies to; the others are refused with the verifiers that do apply."""

from __future__ import annotations

from hsd_verify.tree import DraftTree

EVERY_TREE = "verifiers 'hsd', 'tokenwise' and 'walk' verify every tree"


def require_chain(tree: DraftTree, verifier: str) -> None:
    """Raise `ValueError` unless the tree is one sampled path."""
    for node, children in enumerate(tree.children):
        if len(children) > 1:
            raise ValueError(
                f"verifier {verifier!r} verifies one path, node {node} has {len(children)} children: {EVERY_TREE}"
            )
    _require_all_sampled(tree, verifier)


def require_without_replacement(tree: DraftTree, verifier: str) -> None:
    """Raise `ValueError` unless all nodes were sampled, and siblings without replacement."""
    _require_all_sampled(tree, verifier)
    branching = [v for v, children in enumerate(tree.children) if len(children) > 1]
    if tree.replacement and branching:
        raise ValueError(
            f"verifier {verifier!r} verifies siblings drawn without replacement, those below node {branching[0]} are "
            f"i.i.d.: {EVERY_TREE}"
        )


def require_paths(tree: DraftTree, verifier: str) -> None:
    """Raise `ValueError` unless the tree is a bundle of i.i.d. sampled paths that part at the root."""
    for node, children in enumerate(tree.children[1:], start=1):
        if len(children) > 1:
            raise ValueError(
                f"verifier {verifier!r} verifies unmerged paths from the root, node {node} has {len(children)} "
                f"children: {EVERY_TREE}"
            )
    _require_all_sampled(tree, verifier)
    if len(tree.children[0]) > 1 and not tree.replacement:
        raise ValueError(
            f"verifier {verifier!r} verifies i.i.d. paths, those below node 0 were drawn without replacement: "
            f"{EVERY_TREE}, 'traversal' this one"
        )


def _require_all_sampled(tree: DraftTree, verifier: str) -> None:
    placed = [node for node in range(1, tree.num_nodes) if not tree.sampled_list[node]]
    if placed:
        raise ValueError(f"verifier {verifier!r} needs sampled nodes, node {placed[0]} was placed: {EVERY_TREE}")
