"""A draft head that reads: the head, the embeddings (its own or its target's), and its one-layer cache.

Letters: A entries of one pass, H draft hidden size, Vd draft vocabulary, T entries before the pass, d head size.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from eagle.drafters.head import DraftHead, Embed
from eagle.engine.cache import GROWTH_BLOCK, PreallocatedLayer
from eagle.vocab import DraftVocabulary

NO_LIMIT = 2**31


class HeadReader:
    """Entries of one sequence. A pass appends; `rewind` forgets what lies behind a length."""

    def __init__(self, head: DraftHead, embed: Embed):
        self.head, self.embed = head, head.embedding(embed)
        self._small = head.small_read
        self.vocabulary: DraftVocabulary = head.vocabulary
        self.cache = PreallocatedLayer(capacity=2 * GROWTH_BLOCK, limit=NO_LIMIT)

    @property
    def length(self) -> int:
        """Entries in the cache."""
        return self.cache.length

    def rewind(self, length: int) -> None:
        """Forget everything behind the first `length` entries."""
        assert 0 <= length <= self.length, f"cannot rewind {self.length} entries to {length}"
        self.cache.length = length

    @torch.inference_mode()
    def read_vocabulary(self) -> None:
        """Have its tokens on the host before a round asks for them and waits."""
        _ = self.vocabulary.on_host

    def fuse(self, features: Tensor) -> Tensor:
        """The target's features (A, 3Ht) -> hidden states (A, H) in the head's dtype."""
        return self.head.fuse(features.to(self.head.fc.weight.dtype))

    def read(self, hidden: Tensor, tokens: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """One pass over new entries, which are appended: hidden (A, H), additive mask (1, 1, A, T + A) -> (A, H).

        mask None: all of them see everything, as a single one may.
        """

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return self.attend(query, key, value, mask)

        embedding = self.embed(tokens).to(hidden.dtype)  # (A, H)
        if self._small is not None and self.cache.is_initialized and self._small.takes(hidden):
            return self._small.read(hidden, embedding, positions, mask, self.cache)
        output: Tensor = self.head(hidden[None], embedding[None], positions[None], attend)  # (1, A, H)
        return output[0]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Append keys and values (1, kv_heads, A, d) and attend to all of them: query (1, heads, A, d) -> the same."""
        key, value = self.cache.update(key, value)  # (1, kv_heads, T + A, d)
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (A, H) -> logits (A, Vd) in float32."""
        if self._small is not None and self._small.takes(hidden):
            return self._small.logits(hidden)
        return self.head.logits(hidden).float()
