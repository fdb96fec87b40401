"""A draft head that reads: the head, the embeddings (its own or its target's), and its one-layer cache.

Letters: A entries of one pass, H draft hidden size, Vd draft vocabulary, T entries before the pass, d head size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from eagle.drafters.head import DraftHead, Embed
from eagle.engine.cache import GROWTH_BLOCK, PreallocatedLayer
from eagle.engine.protocol import SmallRead
from eagle.vocab import DraftVocabulary

NO_LIMIT = 2**31


@dataclass(frozen=True)
class NewEntries:
    """Entries to be appended to a sequence's, for a pass in another way than the head's own."""

    hidden: Tensor  # (A, H)
    embedding: Tensor  # (A, H)
    positions: Tensor  # (A,)
    mask: Tensor | None  # (1, 1, A, T + A), additive
    cache: PreallocatedLayer


class HeadReader:
    """Entries of one sequence. A pass appends; `rewind` forgets what lies behind a length."""

    def __init__(self, head: DraftHead, embed: Embed):
        self.head, self.embed = head, head.embedding(embed)
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
        if (small := self.small_read(hidden)) is not None:
            return small.read([NewEntries(hidden, embedding, positions, mask, self.cache)])[0]
        output: Tensor = self.head(hidden[None], embedding[None], positions[None], attend)  # (1, A, H)
        return output[0]

    def small_read(self, hidden: Tensor) -> SmallRead | None:
        """Another way to read entries with these hidden states (A, H), where there is one."""
        small = self.head.small_read if self.cache.is_initialized else None
        return small if small is not None and small.takes(hidden) else None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Append keys and values (1, kv_heads, A, d) and attend to all of them: query (1, heads, A, d) -> the same."""
        key, value = self.cache.update(key, value)  # (1, kv_heads, T + A, d)
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (A, H) -> logits (A, Vd) in float32."""
        small = self.head.small_read
        if small is not None and small.takes(hidden):
            return small.logits([hidden])[0]
        return self.head.logits(hidden).float()
