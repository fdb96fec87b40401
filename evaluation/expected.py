"""The exact counterpart of every recorded round: what each verifier accepts of that tree on average, and the bound.

Not for coupled rounds above temperature 0: their trees have seen the noise of the target's tokens.

Letters: N tree nodes including the root, V vocabulary.
"""

from collections import defaultdict

import torch
from torch import Tensor

import hsd_verify
from eagle.decode import Round
from hsd_verify import DraftTree

GREEDY = "greedy"


class ExactTau:
    """Adds up, over rounds, the expected number of accepted tokens that count: those up to the end of text."""

    def __init__(self, end_token_ids: frozenset[int], greedy: bool):
        self._end_ids = end_token_ids
        # with one-hot laws every verifier is the greedy one; above temperature 0 the greedy one does not apply
        self._methods = [m for m in hsd_verify.VERIFIERS if (m == GREEDY) == greedy]
        self._rounds = 0
        self._sums: dict[str, float] = defaultdict(float)
        self._applied: dict[str, int] = defaultdict(int)
        self._bound: float | None = 0.0

    @torch.inference_mode()
    def add(self, round_: Round) -> None:
        if round_.tree.num_nodes == 1:
            return  # nothing drafted, nothing accepted, whatever the verifier
        counted = counted_nodes(round_.tree, self._end_ids)  # (N,)
        self._rounds += 1
        self._add_bound(round_, counted)
        for verifier in self._methods:
            try:
                reach = hsd_verify.law(round_.tree, round_.target_probs, verifier).reach  # (N,)
            except ValueError:
                continue  # this verifier does not apply to this tree, and says so
            self._sums[verifier] += float(reach.double()[counted].sum())
            self._applied[verifier] += 1

    @property
    def sums(self) -> dict[str, float]:
        """Expected accepted tokens of all rounds, for the verifiers that apply to every one of their trees."""
        return {m: total for m, total in self._sums.items() if self._applied[m] == self._rounds}

    @property
    def bound(self) -> float | None:
        """Sum of `p(v)` over the rounds: what no verifier can pass. None when a tree was not deterministic."""
        return self._bound

    def _add_bound(self, round_: Round, counted: Tensor) -> None:
        if any(round_.tree.sampled_list):
            self._bound = None
        if self._bound is not None:
            self._bound += float(path_probs(round_.tree, round_.target_probs)[counted].sum())


def counted_nodes(tree: DraftTree, end_token_ids: frozenset[int]) -> Tensor:
    """(N,) bool: nodes below the root with no end of text above them. What follows an end is never emitted."""
    ended, counted = [False], [False]
    for parent, token in zip(tree.parent_list[1:], tree.token_list[1:], strict=True):
        counted.append(not ended[parent])
        ended.append(ended[parent] or token in end_token_ids)
    return torch.tensor(counted, device=tree.parents.device)


def path_probs(tree: DraftTree, target_probs: Tensor) -> Tensor:
    """p(v) (N,): joint target probability of every node's path, in float64; target_probs (N, V).

    Of siblings with the same token only the first counts, as only one of them can be accepted.
    """
    own = target_probs[tree.parents.clamp(min=0), tree.tokens].double().tolist()
    joint, seen = [1.0], set()
    for node, (parent, token) in enumerate(zip(tree.parent_list[1:], tree.token_list[1:], strict=True), start=1):
        joint.append(0.0 if (parent, token) in seen else joint[parent] * own[node])
        seen.add((parent, token))
    return torch.tensor(joint, dtype=torch.float64, device=target_probs.device)
