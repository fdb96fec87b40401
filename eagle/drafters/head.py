"""The EAGLE-3 draft head: one decoder layer on [token embedding ; hidden state].

    position     0    1    2    3
    token        x0   x1   x2   x3      x3 is the newest token, the target has not read it yet
    feature      g0   g1   g2           g_i: what the target computed while reading x_i
    head reads  (g0,  (g1,  (g2,
                 x1)   x2)   x3)        the embedding runs one token ahead of the feature
    predicts     x2    x3    x4

Below the root the target's features are unknown; the head's own output before `norm` takes their place.

Letters: B batch, T positions, H draft hidden size, Ht target hidden size, V target vocabulary, Vd draft vocabulary,
d head size.

Source: EAGLE-3 (arXiv 2503.01840), section 3; the parameter names are those of the published checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from eagle.trees.fitted import HeadFit
from eagle.vocab import DraftVocabulary

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(query (B, heads, T, d), key and value (B, kv_heads, T, d) of the same positions) -> (B, heads, T, d).

What else is attended to (a cache, a tree's ancestors, earlier training steps) is the callable's own knowledge."""

INIT_STD = 0.02


@dataclass(frozen=True)
class HeadConfig:
    """The shape of a draft head; `eagle.checkpoints.flat` reads and writes it as a flat Llama `config.json`.

    Raises ValueError at construction when the sizes contradict each other.
    """

    hidden_size: int
    target_hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int  # V, of the target
    draft_vocab_size: int  # Vd
    feature_layers: tuple[int, int, int]  # layers of the target whose inputs are the low, mid and high feature
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0  # never the target's: published heads rotate with this base
    rope_scaling: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.draft_vocab_size <= self.vocab_size:
            raise ValueError(
                f"draft_vocab_size is {self.draft_vocab_size}, it must lie in 1..{self.vocab_size} "
                "(the target's vocab_size): count the training data again with `eagle-hsd prepare`"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}: correct config.json"
            )

    def to_llama(self) -> LlamaConfig:
        """The same numbers as transformers' own configuration, for the modules borrowed from it."""
        rope: dict[str, Any] = {
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
        }  # 5.x: becomes rope_parameters
        return LlamaConfig(
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=1,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            rms_norm_eps=self.rms_norm_eps,
            **rope,
        )


class HeadAttention(nn.Module):
    """Grouped-query attention whose input is twice as wide as its output."""

    def __init__(self, config: HeadConfig):
        super().__init__()
        width, d = 2 * config.hidden_size, config.head_dim
        self.head_dim = d
        self.q_proj = nn.Linear(width, config.num_attention_heads * d, bias=False)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * d, bias=False)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * d, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * d, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        query, key, value = (
            proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, heads, T, d)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *rotary)
        output: Tensor = self.o_proj(attend(query, key, value).transpose(1, 2).flatten(2))  # (B, T, H)
        return output


class HeadLayer(nn.Module):
    """The decoder layer; its residual stream is the hidden state, the embedding only enters through attention."""

    def __init__(self, config: HeadConfig):
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = LlamaRMSNorm(size, eps=eps)  # on the token embedding
        self.hidden_norm = LlamaRMSNorm(size, eps=eps)  # on the hidden state
        self.self_attn = HeadAttention(config)
        self.post_attention_layernorm = LlamaRMSNorm(size, eps=eps)
        self.mlp = LlamaMLP(config.to_llama())

    def forward(self, hidden: Tensor, embedding: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        x = torch.cat([self.input_layernorm(embedding), self.hidden_norm(hidden)], dim=-1)  # (B, T, 2H)
        hidden = hidden + self.self_attn(x, rotary, attend)  # (B, T, H)
        hidden = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return hidden


class DraftHead(nn.Module):
    """The head as published: `fc`, `midlayer`, `norm`, `lm_head` and the vocabulary map `d2t`, `t2d`.

    Holds parameters only. Caches belong to `eagle.drafters.eagle3`, training steps to `eagle.training`; both reach
    attention through the `attend` argument. The token embedding is the target's and is passed in.
    """

    d2t: Tensor
    t2d: Tensor

    def __init__(self, config: HeadConfig, vocabulary: DraftVocabulary | None = None):
        super().__init__()
        self.config = config
        self.fit: HeadFit | None = None  # what was measured of these weights; `eagle.planner` reads it
        self.trained_length: int | None = None  # tokens of the longest context it was trained on, where that is known
        self.fc = nn.Linear(3 * config.target_hidden_size, config.hidden_size, bias=False)
        self.midlayer = HeadLayer(config)
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.draft_vocab_size, bias=False)
        self.rotary = LlamaRotaryEmbedding(config.to_llama())
        vocabulary = vocabulary or DraftVocabulary.first(config.draft_vocab_size, config.vocab_size)
        vocabulary.check_sizes(config.draft_vocab_size, config.vocab_size)
        self.register_buffer("d2t", vocabulary.d2t)
        self.register_buffer("t2d", vocabulary.t2d)

    def init_weights(self, generator: torch.Generator | None = None) -> "DraftHead":
        """Fill every matrix from N(0, 0.02), as the target's own initialisation does; returns self."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=INIT_STD, generator=generator)
        return self

    @property
    def vocabulary(self) -> DraftVocabulary:
        return DraftVocabulary(self.d2t, self.t2d)

    def fuse(self, features: Tensor) -> Tensor:
        """Features (..., 3Ht) in the order low, mid, high -> hidden states (..., H)."""
        hidden: Tensor = self.fc(features)
        return hidden

    def forward(self, hidden: Tensor, embedding: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """One pass of the decoder layer.

        hidden, embedding (B, T, H), positions (B, T) int64 -> hidden states before `norm` (B, T, H). These are what
        `logits` reads and what the next draft step takes as its hidden state.
        """
        output: Tensor = self.midlayer(hidden, embedding, self.rotary(hidden, positions), attend)
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., H) -> logits over the draft vocabulary (..., Vd)."""
        logits: Tensor = self.lm_head(self.norm(hidden))
        return logits
