"""Who drafts for nobody: a model above it decodes its own tokens one by one, as the lowest level of a hierarchy."""

import torch
from torch import Tensor

from eagle.chance import Chance
from eagle.drafters.protocol import check_truncation
from eagle.judging import INDEPENDENT
from eagle.trees.protocols import lone_root
from hsd_verify import DraftTree


class NoDrafter:
    """Proposes nothing."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.num_known, self._newest, self._device = 0, -1, torch.device(device)

    @property
    def verifier(self) -> str:
        """Any does."""
        return INDEPENDENT

    def observe(self, tokens: Tensor, features: Tensor | None = None) -> None:
        """See `Drafter.observe`. Has no use for features."""
        self.num_known += len(tokens)
        if len(tokens):
            self._newest = int(tokens[-1])

    def propose(self, chance: Chance, max_depth: int) -> DraftTree:
        return lone_root(self._newest, self._device)

    def truncate(self, num_tokens: int) -> None:
        check_truncation(num_tokens, self.num_known)
        self.num_known = num_tokens
