"""A proposer and what the text alone suggests below its root.

Letters: F nodes of a frontier, V target vocabulary, Vd draft vocabulary, X tokens of a scaffold outside it.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from eagle.trees.protocols import Proposer
from eagle.trees.scaffold import Scaffold
from eagle.vocab import DraftVocabulary


def with_scaffold(proposer: Proposer, scaffold: Scaffold) -> Proposer:
    """The same draft with a scaffold, whose tokens are all in its vocabulary; itself where there is none."""
    return _Scaffolded(proposer, scaffold) if scaffold.tokens else proposer


class _Scaffolded:
    """Tokens that the draft does not know stand behind its own, and it never draws them: their logits are -inf."""

    def __init__(self, proposer: Proposer, scaffold: Scaffold):
        self._proposer, self.scaffold = proposer, scaffold
        known = proposer.vocabulary.draft_ids[list(scaffold.tokens)].tolist()
        foreign = dict.fromkeys(token for token, own in zip(scaffold.tokens, known, strict=True) if own < 0)
        self._num_foreign = len(foreign)  # X
        self.vocabulary = _extended(proposer.vocabulary, list(foreign))
        self.root_token = proposer.root_token
        self.root_logits = self._padded(proposer.root_logits)  # (Vd + X,)

    def expand(self, tokens: Tensor, parents: Tensor) -> Tensor:
        return self._padded(self._proposer.expand(tokens, parents))  # (F, Vd + X)

    def _padded(self, logits: Tensor) -> Tensor:
        return pad(logits, (0, self._num_foreign), value=-torch.inf) if self._num_foreign else logits


def _extended(vocabulary: DraftVocabulary, foreign: list[int]) -> DraftVocabulary:
    """With more target ids behind its own."""
    if not foreign:
        return vocabulary
    more = torch.tensor(foreign, device=vocabulary.d2t.device)
    target_ids = torch.cat([vocabulary.target_ids, more])  # (Vd + X,)
    places = torch.arange(len(target_ids), device=more.device)
    return DraftVocabulary(target_ids - places, vocabulary.t2d.index_fill(0, more, True))
