"""A proposer and what the text alone suggests below its root.

Letters: F nodes of a frontier, V target vocabulary, Vd draft vocabulary, X tokens of a scaffold outside it.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from eagle.coroutines import Requests
from eagle.trees.protocols import Expansion, Proposer, expanding
from eagle.trees.scaffold import Scaffold


def with_scaffold(proposer: Proposer, scaffold: Scaffold) -> Proposer:
    """The same draft with a scaffold, whose tokens are all in its vocabulary; itself where there is none."""
    return _Scaffolded(proposer, scaffold) if scaffold.tokens else proposer


class _Scaffolded:
    """Tokens that the draft does not know stand behind its own, and it never draws them: their logits are -inf."""

    def __init__(self, proposer: Proposer, scaffold: Scaffold):
        self._proposer, self.scaffold = proposer, scaffold
        foreign = list(dict.fromkeys(token for token in scaffold.tokens if token not in proposer.vocabulary.on_host))
        self._num_foreign = len(foreign)  # X
        self.vocabulary = proposer.vocabulary.extended(foreign) if foreign else proposer.vocabulary
        self.root_token = proposer.root_token
        self.root_logits = self._padded(proposer.root_logits)  # (Vd + X,)

    def expand(self, tokens: Tensor, parents: Tensor) -> Tensor:
        return self._padded(self._proposer.expand(tokens, parents))  # (F, Vd + X)

    def expanding(self, tokens: Tensor, parents: Tensor) -> Requests[Tensor]:
        """See `AskingProposer`."""
        return self._padded((yield from expanding(self._proposer, Expansion(tokens, parents))))  # (F, Vd + X)

    def _padded(self, logits: Tensor) -> Tensor:
        return pad(logits, (0, self._num_foreign), value=-torch.inf) if self._num_foreign else logits
