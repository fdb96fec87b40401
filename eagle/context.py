"""The text that a law may depend on: prompt and answer, up to where the next token stands; at a node, with its path.

Letters: T tokens, N tree nodes including the root.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hsd_verify import DraftTree
from hsd_verify.transfer import send


@dataclass(frozen=True, eq=False)
class Context:
    """Ids of the prompt and of the answer so far."""

    ids: Tensor  # (T,) int64
    num_prompt: int  # how many of them, the first ones, the prompt holds

    @classmethod
    def of(cls, ids: Sequence[int], num_prompt: int, device: torch.device | str = "cpu") -> "Context":
        return cls(send(torch.tensor(ids, dtype=torch.int64), torch.device(device)), num_prompt)

    @cached_property
    def listed(self) -> list[int]:
        """The ids on the host."""
        return [int(token) for token in self.ids.tolist()]

    @property
    def answer(self) -> Tensor:
        """Ids behind the prompt."""
        return self.ids[self.num_prompt :]

    def after(self, tree: DraftTree, nodes: Sequence[int]) -> list["Context"]:
        """The text behind each of these nodes. This one ends with the root's token: it is the text behind node 0."""
        return [self._behind(tree.path_tokens(node)) for node in nodes]

    def _behind(self, tokens: Sequence[int]) -> "Context":
        if not tokens:
            return self
        return Context(torch.cat([self.ids, self.ids.new_tensor(tokens)]), self.num_prompt)
