"""A draft tree: which nodes exist and how each was proposed; what could not have been drafted is refused here.

Letters: N nodes including the root, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hsd_verify import checks
from hsd_verify.topology import Forest


@dataclass(frozen=True, eq=False)
class DraftTree(Forest):
    """One drafted tree with everything a verifier must know about how it was proposed.

    `parents`      (N,) int64, `parents[0] = -1` and `parents[i] < i`
    `tokens`       (N,) int64; `tokens[0]` is the root's own token, already part of the text
    `sampled`      (N,) bool: node i was drawn at random (False: placed deterministically). None: all deterministic
    `draft_probs`  (N, V) float: row v is the law of the first sampled child of v, without the tokens of its
                   deterministic siblings; rows of nodes without sampled children are not read. None: nothing sampled
    `replacement`  sampled siblings are i.i.d. draws (duplicates stay separate nodes); default: without replacement

    Raises `ValueError` naming the node, the value and the remedy when the tree could not have been drafted this way.
    """

    def __post_init__(self) -> None:
        put = object.__setattr__  # the dataclass is frozen for everyone else
        put(self, "parents", _as_tensor("parents", self.parents, None))
        device = self.parents.device
        put(self, "tokens", _as_tensor("tokens", self.tokens, device))
        sampled = torch.zeros_like(self.parents, dtype=torch.bool) if self.sampled is None else self.sampled
        put(self, "sampled", _as_tensor("sampled", sampled, device))
        checks.check_tree(self)
        for name in ("parents", "tokens"):
            put(self, name, getattr(self, name).long())


def _as_tensor(name: str, values: object, device: torch.device | None) -> Tensor:
    try:
        return torch.as_tensor(values, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is {values!r}: pass a tensor or a list of integers, one a node ({error})") from None
