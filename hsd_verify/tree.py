"""A draft tree: which nodes exist and how each was proposed; what could not have been drafted is refused here.

Letters: N nodes including the root, V vocabulary.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass

import torch
from torch import Tensor

from hsd_verify import checks
from hsd_verify.topology import Forest
from hsd_verify.transfer import send


@dataclass(frozen=True, eq=False)
class DraftTree(Forest):
    """One drafted tree with everything a verifier must know about how it was proposed.

    `parents`      (N,) int64, `parents[0] = -1` and `parents[i] < i`
    `tokens`       (N,) int64; `tokens[0]` is the root's own token, already part of the text
    `sampled`      (N,) bool: node i was drawn at random (False: placed deterministically). None: all deterministic
    `draft_probs`  (N, V) float: row v is the law of the first sampled child of v, without the tokens of its
                   deterministic siblings; rows of nodes without sampled children are not read. None: nothing sampled
    `replacement`  sampled siblings are i.i.d. draws (duplicates stay separate nodes); default: without replacement
    `device`       where `parents`, `tokens` and `sampled` shall lie, in one upload; None: where `parents` do

    The host reads the structure once, in one transfer; what lies on the CPU need not be read back.
    Raises `ValueError` naming the node, the value and the remedy when the tree could not have been drafted this way.
    """

    device: InitVar[torch.device | None] = None

    def __post_init__(self, device: torch.device | None) -> None:
        parents = _as_tensor("parents", self.parents, None)
        tokens = _as_tensor("tokens", self.tokens, parents.device)
        given = [] if self.sampled is None else [_as_tensor("sampled", self.sampled, parents.device)]
        checks.check_vectors(parents, tokens, *given)
        columns = torch.stack([column.long() for column in (parents, tokens, *given)])  # (2 or 3, N)
        self._keep(columns.tolist(), columns if device is None else send(columns, device))
        checks.check_tree(self)

    def _keep(self, listed: list[list[int]], columns: Tensor) -> None:
        put = object.__setattr__  # the dataclass is frozen for everyone else
        put(self, "parent_list", tuple(listed[0]))
        put(self, "token_list", tuple(listed[1]))
        put(self, "sampled_list", tuple(map(bool, listed[2])) if len(listed) > 2 else (False,) * len(listed[0]))
        put(self, "parents", columns[0])
        put(self, "tokens", columns[1])
        put(self, "sampled", columns[2].bool() if len(listed) > 2 else torch.zeros_like(columns[0], dtype=torch.bool))


def _as_tensor(name: str, values: object, device: torch.device | None) -> Tensor:
    try:
        return torch.as_tensor(values, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is {values!r}: pass a tensor or a list of integers, one a node ({error})") from None
