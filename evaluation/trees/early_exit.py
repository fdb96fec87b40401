"""A draft without a head, for trying trees before one is trained: the target's own high feature, read out early.

It cheats, since the target itself has read every path it drafts from, so its numbers are not results. But its errors
are those of a model: they go together along a path, which independent noise on the target's logits does not do, and
sampled chains look far too good on such noise.

Letters: F nodes of a frontier, H hidden size, V vocabulary.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from eagle.engine.target import Target
from eagle.trees import Proposer
from eagle.trees.scaffold import EMPTY
from eagle.vocab import DraftVocabulary
from evaluation.trees.shared import PathScores, TokenPath


@dataclass(frozen=True)
class EarlyExit:
    """A draft source; on SmolLM2-135M its overlap with the target at temperature 1 is about 0.42."""

    target: Target
    temperature: float = 1.25  # early logits are too sharp; this one gives the largest overlap

    def open_round(
        self, ids: tuple[int, ...], features: Tensor, scores: PathScores
    ) -> AbstractContextManager[Proposer]:
        return nullcontext(EarlyExitProposer(self, ids[-1], scores))

    def logits(self, features: Tensor) -> Tensor:
        """Features (F, 3H) -> logits (F, V) of the layer the high feature enters."""
        high = features.chunk(3, dim=-1)[-1]  # (F, H)
        normed = self.target.model.get_decoder().norm(high)
        logits: Tensor = self.target.model.get_output_embeddings()(normed)
        return logits.float() / self.temperature


class EarlyExitProposer:
    """A `Proposer` over the target's own vocabulary."""

    scaffold = EMPTY

    def __init__(self, source: EarlyExit, root_token: int, scores: PathScores):
        self._source, self._scores = source, scores
        self._paths: list[TokenPath] = [()]
        self.root_token = root_token
        self.root_logits = self._logits([()])[0]
        self.vocabulary = DraftVocabulary.first(len(self.root_logits), len(self.root_logits))

    def expand(self, tokens: Tensor, parents: Tensor) -> Tensor:
        rows = zip(tokens.tolist(), parents.tolist(), strict=True)
        paths: list[TokenPath] = [(*self._paths[parent], token) for token, parent in rows]
        self._paths += paths
        return self._logits(paths)

    def _logits(self, paths: list[TokenPath]) -> Tensor:
        self._scores.score_paths(paths)
        return self._source.logits(torch.stack([self._scores.features[path] for path in paths]))
