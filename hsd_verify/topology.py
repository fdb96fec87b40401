"""The structure of trees: levels, families, and the order in which siblings are tested and nodes may fire.

Letters: N nodes including the root, V vocabulary, K most sampled siblings, M most placed siblings.

A tree is a handful of integers, so its structure lives on the host as tuples; only what the laws index with (parents,
tokens, `Family`) is kept as tensors, on the device the tree came with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from hsd_verify.transfer import Nodes, to_device

CANCELLING = 0.1  # below this, 1 minus drawn probabilities has lost a digit of float32: sum what remains instead
PADDING = -2  # parent of an entry that only fills a batch


@dataclass(frozen=True, eq=False)
class Family:
    """Nodes of one level with their children, in the order the laws test them: sampled by rank, then placed.

    Nodes are sorted by their number of sampled children, most first, so that the nodes having a k-th sampled child
    are the first `len(sampled[k])` of them and a slice selects them.
    """

    order: tuple[int, ...]  # n parents
    nodes: Tensor  # (n,) the same
    rows: slice | None  # the same where they are consecutive: their rows can then be read without copying them
    sampled: tuple[Tensor, ...]  # K tensors; the k-th holds the k-th sampled child of the first n_k nodes
    placed: Tensor  # (n, M) deterministic children, padded with 0
    placed_mask: Tensor  # (n, M) bool: a real child, and the first placed one with its token
    child_tokens: Tensor  # (n, K + M) tokens of sampled and placed children, padded with 0

    def rows_of(self, probs: Tensor, part: slice = slice(None)) -> Tensor:
        """Rows of probs (N, V) at a slice of the nodes, (m, V); a view where possible."""
        if self.rows is None:
            return probs.index_select(0, self.nodes[part])
        return probs[self.rows][part]


@dataclass(frozen=True, eq=False)
class Forest:
    """Structure of one drafted tree, or of several whose nodes are numbered through; fields as in `DraftTree`.

    A parent of -1 makes a root, `PADDING` an entry that is no node at all. Nothing is checked here.
    """

    parents: Tensor
    tokens: Tensor
    sampled: Tensor | None = None
    draft_probs: Tensor | None = None
    replacement: bool = False

    @property
    def proposals(self) -> Tensor:
        """`draft_probs` of a tree in which something was sampled, (N, V)."""
        assert self.draft_probs is not None, "a tree with sampled nodes has draft_probs, see checks"
        return self.draft_probs

    @cached_property
    def parent_list(self) -> tuple[int, ...]:
        return tuple(self.parents.tolist())

    @cached_property
    def token_list(self) -> tuple[int, ...]:
        return tuple(self.tokens.tolist())

    @cached_property
    def sampled_list(self) -> tuple[bool, ...]:
        return (False,) * len(self.parents) if self.sampled is None else tuple(self.sampled.tolist())

    @property
    def num_nodes(self) -> int:
        return len(self.parent_list)

    @cached_property
    def roots(self) -> list[int]:
        return [i for i, parent in enumerate(self.parent_list) if parent == -1]

    @cached_property
    def root_index(self) -> Tensor:
        return self._index(self.roots)

    @cached_property
    def depth(self) -> tuple[int, ...]:
        """Number of drafted tokens on the path of each node; 0 for a root."""
        depth: list[int] = []
        for parent in self.parent_list:
            depth.append(depth[parent] + 1 if parent >= 0 else 0)
        return tuple(depth)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Children of every node in test order: sampled ones by index, then deterministic ones by index."""
        children: list[list[int]] = [[] for _ in self.parent_list]
        for node in sorted(range(self.num_nodes), key=lambda i: (not self.sampled_list[i], i)):
            if self.parent_list[node] >= 0:
                children[self.parent_list[node]].append(node)
        return tuple(map(tuple, children))

    @cached_property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """Nodes by depth, the roots first."""
        levels: list[list[int]] = [[] for _ in range(max(self.depth) + 1)]
        for node, depth in enumerate(self.depth):
            levels[depth].append(node)
        return tuple(map(tuple, levels))

    @cached_property
    def post_order(self) -> tuple[int, ...]:
        """Every node after all of its subtree, siblings in test order: the order in which nodes may fire."""
        reverse, stack = [], self.roots[::-1]
        while stack:
            node = stack.pop()
            reverse.append(node)
            stack.extend(self.children[node])
        return tuple(reversed(reverse))

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """One `Family` a level, of the nodes that have children there."""
        inner = ([v for v in level if self.children[v]] for level in self.levels)
        return tuple(self._families([nodes for nodes in inner if nodes]))

    def sampled_children(self, node: int) -> list[int]:
        return [c for c in self.children[node] if self.sampled_list[c]]

    def placed_children(self, node: int) -> list[int]:
        return [c for c in self.children[node] if not self.sampled_list[c]]

    def _families(self, levels: Sequence[Sequence[int]]) -> Iterator[Family]:
        """The `Family` of the nodes of each level; all their indices in one upload."""
        orders = [sorted(nodes, key=lambda v: -len(self.sampled_children(v))) for nodes in levels]
        lists = [self._lists_of(order) for order in orders]
        tensors = iter(to_device([one for own in lists for one in own], self.parents.device))
        for order, own in zip(orders, lists, strict=True):
            nodes, placed, mask, tokens, *sampled = islice(tensors, len(own))
            yield Family(tuple(order), nodes, _as_slice(order), tuple(sampled), placed, mask.bool(), tokens)

    def _lists_of(self, order: list[int]) -> list[Nodes]:
        """The indices of a `Family`: its nodes, `placed`, `placed_mask`, `child_tokens` and those in `sampled`."""
        drawn = [self.sampled_children(v) for v in order]
        placed = _pad([self.placed_children(v) for v in order])
        placed_tokens = self._tokens_of(placed)
        return [
            order,
            placed,
            list(map(_first_of_token, placed, placed_tokens)),
            list(map(list.__add__, self._tokens_of(_pad(drawn)), placed_tokens)),
            *([d[k] for d in drawn if len(d) > k] for k in range(len(drawn[0]))),
        ]

    @cached_property
    def inner_runs(self) -> tuple[slice, ...]:
        """Nodes that have children, as slices of consecutive ones."""
        return tuple(runs([node for node, children in enumerate(self.children) if children]))

    def entries(self, probs: Tensor, place: Tensor | None = None) -> Tensor:
        """(N,) what probs (N, V) gives to the token of every node after its parent; of no meaning at roots.

        `place` (N,) says which row of probs is a node's, where there are rows of some nodes only.
        """
        parents, tokens = self._places
        return probs[parents if place is None else place[parents], tokens]

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Row and column of every node's own entry; those of roots and padding are 0."""
        below = self.parents >= 0
        return self.parents.where(below, 0), self.tokens.where(below, 0)

    @cached_property
    def proposal_at(self) -> tuple[float, ...]:
        """Entry of `draft_probs` that every node was drawn with, before tokens drawn earlier are taken out."""
        return tuple(self.entries(self.proposals).tolist())

    @cached_property
    def kept_of(self) -> tuple[float, ...]:
        """Mass of its parent's row that each sampled node was drawn from: 1 minus earlier draws."""
        kept = [1.0] * self.num_nodes
        for node in range(self.num_nodes):
            siblings = [] if self.replacement else self.sampled_children(node)
            for rank, child in enumerate(siblings[1:], start=1):
                kept[child] = self._mass_without(node, siblings[:rank])
        return tuple(kept)

    @cached_property
    def kept(self) -> Tensor:
        """(N,) float64, the same on the device."""
        if self.parents.is_cpu:
            return torch.tensor(self.kept_of, dtype=torch.float64)
        return self.kept_by_rows()

    def kept_by_rows(self) -> Tensor:
        """`kept` without a number of it on the host: the rows of all later siblings are summed, what little remains."""
        kept = torch.ones(self.num_nodes, dtype=torch.float64, device=self.parents.device)
        drawn = [] if self.replacement else [self.sampled_children(v) for v in range(self.num_nodes)]
        later = [(child, own[:rank]) for own in drawn for rank, child in enumerate(own) if rank]
        if not later:
            return kept
        nodes = [child for child, _ in later]
        earlier = self._tokens_of(_pad([first for _, first in later], fill=None))  # repeats its last token
        index, tokens = to_device([nodes, earlier], kept.device)
        rows = self.proposals[self.parents[index]].scatter_(1, tokens, 0.0)  # (n, V)
        return kept.index_copy_(0, index, rows.sum(-1, dtype=torch.float64))

    @cached_property
    def proposed(self) -> Tensor:
        """(N,) float64 probability that each sampled node was proposed with; 1 elsewhere."""
        probs = self.entries(self.proposals).double() / self.kept  # (N,)
        assert self.sampled is not None, "a tree with proposals says which nodes were sampled"
        return torch.where(self.sampled, probs, 1.0)

    def _mass_without(self, node: int, drawn: list[int]) -> float:
        """Mass of a row of `draft_probs` without the tokens of some nodes: a difference, unless little remains."""
        difference = 1.0 - sum(self.proposal_at[c] for c in drawn)
        if difference > CANCELLING:
            return difference
        rest = self.proposals[node].clone()  # (V,)
        rest[[self.token_list[c] for c in drawn]] = 0
        return float(rest.sum())

    def _tokens_of(self, rows: list[list[int]]) -> list[list[int]]:
        return [[self.token_list[c] if c else 0 for c in row] for row in rows]

    def path(self, node: int) -> list[int]:
        """Nodes from below the root down to `node`."""
        path: list[int] = []
        while self.parent_list[node] >= 0:
            path.append(node)
            node = self.parent_list[node]
        return path[::-1]

    def path_tokens(self, node: int) -> tuple[int, ...]:
        """Tokens of `path(node)`."""
        return tuple(self.token_list[v] for v in self.path(node))

    def _index(self, nodes: Nodes) -> Tensor:
        return to_device([nodes], self.parents.device)[0]


def _as_slice(nodes: list[int]) -> slice | None:
    return slice(nodes[0], nodes[-1] + 1) if nodes == list(range(nodes[0], nodes[-1] + 1)) else None


def _pad(rows: Sequence[list[int]], fill: int | None = 0) -> list[list[int]]:
    """Rows of one length; `fill` None repeats the last entry of each."""
    width = max(map(len, rows))
    return [row + [row[-1] if fill is None else fill] * (width - len(row)) for row in rows]


def _first_of_token(siblings: list[int], tokens: list[int]) -> list[int]:
    """1 at children whose token no earlier sibling has: the only ones that can be accepted."""
    return [
        int(child != 0 and token not in tokens[:j])
        for j, (child, token) in enumerate(zip(siblings, tokens, strict=True))
    ]


def runs(nodes: Sequence[int]) -> Iterator[slice]:
    """Ascending nodes as slices of consecutive ones: a slice of rows is a view, an index copies them."""
    start = 0
    for place in range(1, len(nodes) + 1):
        if place == len(nodes) or nodes[place] != nodes[place - 1] + 1:
            yield slice(nodes[start], nodes[place - 1] + 1)
            start = place
