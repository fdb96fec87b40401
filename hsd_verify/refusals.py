"""Which trees a method applies to; the others are refused with the methods that do apply."""

from __future__ import annotations

from hsd_verify.topology import DraftTree

EVERY_TREE = "methods 'hsd', 'tokenwise' and 'walk' verify every tree"


def require_chain(tree: DraftTree, method: str) -> None:
    """Raise `ValueError` unless the tree is one sampled path."""
    for node, children in enumerate(tree.children):
        if len(children) > 1:
            raise ValueError(
                f"method {method!r} verifies one path, node {node} has {len(children)} children: {EVERY_TREE}"
            )
    _require_all_sampled(tree, method)


def require_without_replacement(tree: DraftTree, method: str) -> None:
    """Raise `ValueError` unless all nodes were sampled, and siblings without replacement."""
    _require_all_sampled(tree, method)
    branching = [v for v, children in enumerate(tree.children) if len(children) > 1]
    if tree.replacement and branching:
        raise ValueError(
            f"method {method!r} verifies siblings drawn without replacement, those below node {branching[0]} are "
            f"i.i.d.: {EVERY_TREE}"
        )


def require_paths(tree: DraftTree, method: str) -> None:
    """Raise `ValueError` unless the tree is a bundle of i.i.d. sampled paths that part at the root."""
    for node, children in enumerate(tree.children[1:], start=1):
        if len(children) > 1:
            raise ValueError(
                f"method {method!r} verifies unmerged paths from the root, node {node} has {len(children)} children: "
                f"{EVERY_TREE}"
            )
    _require_all_sampled(tree, method)
    if len(tree.children[0]) > 1 and not tree.replacement:
        raise ValueError(
            f"method {method!r} verifies i.i.d. paths, those below node 0 were drawn without replacement: "
            f"{EVERY_TREE}, 'traversal' this one"
        )


def _require_all_sampled(tree: DraftTree, method: str) -> None:
    placed = [node for node in range(1, tree.num_nodes) if not tree.sampled_list[node]]
    if placed:
        raise ValueError(f"method {method!r} needs sampled nodes, node {placed[0]} was placed: {EVERY_TREE}")
