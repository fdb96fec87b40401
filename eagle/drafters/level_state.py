"""What a level of a hierarchy has read: its model's cache, its own drafter, and how far both are behind the text.

    text       x0 x1 x2 x3 x4 x5        known from above
    cache      x0 x1 x2 x3              read by the model
    unread           x4 x5              read with the next tree, in one pass: x4 is a chain above the root x5

After a rejection above everything but the correction was read before. After full acceptance the level's own last token
and the one added above are both unread: without folding them into the next tree a middle model would pay an extra pass
for every round of the target.

Letters: N tree nodes including the root, U unread tokens, V vocabulary, H hidden size of the model.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from eagle.drafters.protocol import Drafter
from eagle.engine.masks import ancestor_matrix, chain_parents
from eagle.engine.protocol import Engine, TargetOutput, TreeCache
from hsd_verify import DraftTree
from hsd_verify.transfer import send

MOST_FOLDED = 8  # unread tokens that are read with a tree; more of them are read before


class LevelState:
    """One model and its drafter over one text. What they know of a text that went on otherwise is taken back."""

    def __init__(self, model: Engine[Any], drafter: Drafter):
        self.model, self.drafter = model, drafter
        self.cache: TreeCache = model.new_cache()
        self._known: list[int] = []  # what the drafter was told
        self._features: list[Tensor] = []  # runs of (.., 3H), of the cache's last entries
        self._first = 0  # the entry that they begin with
        self._tail = 0  # unread tokens above the root, in the pass under way
        self._output: TargetOutput | None = None
        self.can_draft = False  # the drafter was told a feature since it was last taken back

    @property
    def num_unread(self) -> int:
        """Tokens that the next pass reads, with the root."""
        return len(self._known) - self.cache.length

    def catch_up(self, text: list[int]) -> None:
        """Make `text` what is known; reads what is too long to be read with a tree."""
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._known, text, strict=False)))
        features = self._go_back(text, same) if same < len(self._known) or self.cache.is_stale else None
        self._tell(text[len(self._known) :], features)
        unread = text[self.cache.length : -1]
        if len(unread) >= MOST_FOLDED or not self.can_draft:
            self._read(unread)
        self._features, self._first = [], self.cache.length

    def score(self, tree: DraftTree) -> Tensor:
        """Logits (N, V) after the nodes of a tree whose root is the newest known token, in one pass."""
        above = self._known[self.cache.length : -1]  # U - 1
        self._tail = len(above)
        tokens = send(torch.tensor([*above, *tree.token_list]), tree.tokens.device)  # (U - 1 + N,)
        below = (self._tail + parent for parent in tree.parent_list[1:])
        parents = [*chain_parents(self._tail + 1), *below]
        self._output = self.model.forward_tree(tokens, ancestor_matrix(parents), self.cache)
        return self._output.logits[self._tail :]

    def advance(self, tree: DraftTree, path: list[int], token: int) -> list[int]:
        """Keep a path (tau) of the tree just scored, and the token behind it; returns the new tokens."""
        assert self._output is not None, "score a tree first"
        nodes = [*range(self._tail + 1), *(self._tail + node for node in path)]
        kept = send(torch.tensor(nodes), tree.tokens.device)
        self.cache.keep(kept)
        features, self._output = self._output.features[kept], None
        new = [*(tree.token_list[node] for node in path), token]
        self._features.append(features)
        self._tell(new, features)
        return new

    def _tell(self, tokens: Sequence[int], features: Tensor | None) -> None:
        if len(tokens) or features is not None:
            self.drafter.observe(torch.tensor(tokens, dtype=torch.int64), features)
        self._known += tokens
        self.can_draft |= features is not None

    def _read(self, tokens: list[int]) -> None:
        if tokens:
            output = self.model.prefill(send(torch.tensor(tokens), self.model.device), self.cache)
            self._tell((), output.features)

    def _go_back(self, text: list[int], same: int) -> Tensor | None:
        """Forget what the text does not share; returns features of entries that stay and the drafter must hear again.

        The last token of the text is always told anew, and where its drafter's features are no longer at hand, the
        entries that they belong to are read again.
        """
        read, told = self.cache.length, min(same, len(text) - 1)  # of the drafter's features, and its tokens
        kept = 0 if self.cache.is_stale else min(told, read, self.cache.usable_prefix(len(text)))
        if told - 1 < read and told - 1 < self._first:
            kept = min(kept, max(told - 1, 0))
        if kept < told - 1:
            told = kept + 1 if kept else 0
        known = max(told - 1, 0)  # features that the drafter keeps
        self.drafter.truncate(told)
        self.cache.truncate(kept)
        self._known = self._known[:told]
        if known >= read:
            return None
        self.can_draft = False
        return torch.cat(self._features)[known - self._first : kept - self._first] if kept > known else None
