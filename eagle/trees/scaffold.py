"""What the text alone suggests below a root: a chain of tokens that stands in the tree beside the draft's own.

    text       .. the cat sat .. the cat       its end stood there before, and went on with "sat .."
    scaffold   sat ..                          each token with the probability that the target takes it

A policy places these tokens: they are known before anything is drawn, so that a tree may hold them wherever it likes as
long as a family is decided whole, with them, before its first token is drawn (`eagle.trees.growth`). Tokens that the
draft cannot propose, since its vocabulary is smaller than the target's, come into a tree in no other way.

Letters: Vd draft vocabulary.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eagle.vocab import DraftVocabulary

DRAFT_WEIGHT = 0.5  # of the draft's log odds beside the text's: docs/trees.md

LEAST = 1e-6  # a draft's opinion is kept from 0 and 1 by so much: odds are finite then


class Step(NamedTuple):
    """One token of a scaffold as a policy sees it."""

    token: int  # target id
    draft_id: int
    acceptance: float  # predicted probability that the target takes it, if it took the ones before


@dataclass(frozen=True)
class Scaffold:
    """A chain of tokens below the root, from the first one on; empty where the text suggests nothing.

    Raises ValueError for lists of two lengths and for predictions that leave no doubt.
    """

    tokens: tuple[int, ...] = ()  # target ids
    acceptance: tuple[float, ...] = ()  # of each token, given that the ones before it were taken

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.acceptance):
            raise ValueError(f"a scaffold has {len(self.tokens)} tokens and {len(self.acceptance)} predictions of them")
        for acceptance in self.acceptance:
            if not 0 < acceptance < 1:
                raise ValueError(f"a step of a scaffold has acceptance {acceptance}, it must lie between 0 and 1")

    def steps(self, vocabulary: DraftVocabulary) -> tuple[Step, ...]:
        """With draft ids; the vocabulary must hold all tokens (`eagle.trees.scaffolded` sees to that)."""
        if not self.tokens:
            return ()
        return tuple(map(Step, self.tokens, map(vocabulary.on_host.__getitem__, self.tokens), self.acceptance))


EMPTY = Scaffold()


def believed(draft: Tensor, acceptance: float) -> Tensor:
    """Probabilities that tokens are accepted which the draft gives `draft` (...) and the text suggests, too.

    Odds of the text times the root of the draft's odds, as the two opinions are not independent: the draft has read the
    same text. Never less than the draft says. A draft of 0 is none: the token may lie outside its vocabulary.
    """
    log_odds = DRAFT_WEIGHT * draft.logit(LEAST) + math.log(acceptance / (1 - acceptance))
    return torch.where(draft > 0, torch.maximum(draft, log_odds.sigmoid()), acceptance)
