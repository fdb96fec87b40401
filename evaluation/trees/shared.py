"""Many trees on one context for the price of few: the head reads a path once, the target scores a path once.

Letters: F nodes of a frontier, N nodes of a tree, V target vocabulary, Vd draft vocabulary.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from eagle.chance import Chance
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.head import DraftHead
from eagle.engine.cache import TargetCache
from eagle.engine.masks import ancestor_matrix
from eagle.engine.target import Target
from eagle.trees import EagleTree, Proposer, TreePolicy
from eagle.trees.protocols import grown
from eagle.trees.scaffold import EMPTY
from hsd_verify import DraftTree

TokenPath = tuple[int, ...]  # tokens below the root
CHUNK = 96  # nodes of one pass of the target


@dataclass(frozen=True)
class Growing:
    """One tree to grow."""

    policy: TreePolicy
    chance: Chance


class SharedReads:
    """Reads every path once, whoever asks; the trees of one context share most of theirs."""

    def __init__(self, proposer: Proposer):
        self.proposer = proposer
        self._rows: dict[TokenPath, int] = {(): 0}
        self._logits = [proposer.root_logits]

    def logits(self, paths: list[TokenPath]) -> Tensor:
        """(F, Vd) after paths whose prefixes were read before."""
        new = [path for path in dict.fromkeys(paths) if path not in self._rows]
        if new:
            device = self.proposer.root_logits.device
            tokens = torch.tensor([path[-1] for path in new], device=device)
            parents = torch.tensor([self._rows[path[:-1]] for path in new], device=device)
            self._logits += list(self.proposer.expand(tokens, parents))
            self._rows.update({path: len(self._rows) + i for i, path in enumerate(new)})
        return torch.stack([self._logits[self._rows[path]] for path in paths])


class SharedProposer:
    """A `Proposer` with rows of its own in front of shared reads."""

    scaffold = EMPTY

    def __init__(self, reads: SharedReads):
        self._reads = reads
        self._paths: list[TokenPath] = [()]
        self.vocabulary, self.root_token = reads.proposer.vocabulary, reads.proposer.root_token
        self.root_logits = reads.proposer.root_logits

    def expand(self, tokens: Tensor, parents: Tensor) -> Tensor:
        rows = zip(tokens.tolist(), parents.tolist(), strict=True)
        paths: list[TokenPath] = [(*self._paths[parent], token) for token, parent in rows]
        self._paths += paths
        return self._reads.logits(paths)


@torch.inference_mode()
def grow_all(growing: Iterable[Growing], proposer: Proposer, max_depth: int) -> list[DraftTree]:
    """All trees, from one round's reads."""
    reads = SharedReads(proposer)
    return [grown(one.policy, SharedProposer(reads), one.chance, max_depth) for one in growing]


class PathScores:
    """The target's logits after every path of a context, each scored once, in passes of up to CHUNK new nodes."""

    def __init__(self, target: Target, cache: TargetCache, root_token: int):
        self._target, self._cache, self._root = target, cache, root_token
        self._logits: dict[TokenPath, Tensor] = {}
        self.features: dict[TokenPath, Tensor] = {}  # (3H,)

    def score(self, trees: Iterable[DraftTree]) -> None:
        self.score_paths(path for tree in trees for path in tree_paths(tree))

    def score_paths(self, paths: Iterable[TokenPath]) -> None:
        paths = sorted(set(paths) - self._logits.keys())
        for start in range(0, len(paths), CHUNK):
            self._pass(paths[start : start + CHUNK])

    def logits(self, tree: DraftTree) -> Tensor:
        """(N, V) in the target's dtype, of a tree scored before."""
        return self.logits_of(tree_paths(tree))

    def logits_of(self, paths: list[TokenPath]) -> Tensor:
        """(N, V), of paths scored before."""
        return torch.stack([self._logits[path] for path in paths])

    def _pass(self, new: list[TokenPath]) -> None:
        # prefixes scored in an earlier pass are read again, since no pass leaves anything in the cache
        nodes = sorted({path[:i] for path in new for i in range(len(path) + 1)}, key=lambda path: (len(path), path))
        number = {path: i for i, path in enumerate(nodes)}
        device = self._target.device
        parents = [-1, *(number[path[:-1]] for path in nodes[1:])]
        tokens = torch.tensor([self._root, *(path[-1] for path in nodes[1:])], device=device)
        output = self._target.forward_tree(tokens, ancestor_matrix(parents), self._cache)
        self._cache.keep(tokens[:0])
        self._logits.update({path: output.logits[number[path]].clone() for path in new})
        self.features.update({path: output.features[number[path]].clone() for path in new})


def tree_paths(tree: DraftTree) -> list[TokenPath]:
    """Tokens below the root of every node; of siblings with one token both have the same."""
    paths: list[TokenPath] = [()]
    for parent, token in zip(tree.parent_list[1:], tree.token_list[1:], strict=True):
        paths.append((*paths[parent], token))
    return paths


class DraftSource(Protocol):
    """Where draft laws come from."""

    def open_round(
        self, ids: tuple[int, ...], features: Tensor, scores: PathScores
    ) -> AbstractContextManager[Proposer]:
        """Laws behind the context `ids` (T,), whose last one is the root, while it is open; features (T - 1, 3H)."""
        ...


@dataclass(frozen=True)
class HeadSource:
    """An EAGLE-3 head."""

    head: DraftHead
    target: Target

    def open_round(
        self, ids: tuple[int, ...], features: Tensor, scores: PathScores
    ) -> AbstractContextManager[Proposer]:
        drafter = EagleDrafter(self.head, self.target.embed, EagleTree())  # a tree of its own is not asked for
        drafter.observe(torch.tensor(ids), features)
        return drafter.open_round()
