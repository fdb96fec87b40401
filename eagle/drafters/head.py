"""The EAGLE-3 draft head: one decoder layer on [token embedding ; hidden state].

    position     0    1    2    3
    token        x0   x1   x2   x3      x3 is the newest token, the target has not read it yet
    feature      g0   g1   g2           g_i: what the target computed while reading x_i
    head reads  (g0,  (g1,  (g2,
                 x1)   x2)   x3)        the embedding runs one token ahead of the feature
    predicts     x2    x3    x4

Below the root the target's features are unknown; the head's own output before `norm` takes their place.

Four flags of published heads change that, all off in an ordinary one:

    norm_output           what takes the features' place is the output behind `norm`             EAGLE-3.1
    fc_norm               each of the three features is normed by itself before `fc`             EAGLE-3.1
    norm_before_fc        the three features are normed together before `fc`                     gpt-oss heads
    norm_before_residual  the residual stream begins with the normed hidden state                speculators

and `own_embedding`: the head brings the embeddings it reads, of its own width. Without, the target's are passed in.

Letters: B batch, T positions, H draft hidden size, Ht target hidden size, V target vocabulary, Vd draft vocabulary,
d head size.

Sources: EAGLE-3 (arXiv 2503.01840), section 3; attention drift and the norms of EAGLE-3.1 (arXiv 2605.09992). The
parameter names are those of the published checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
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

from eagle.engine.feature_layers import check_feature_layers
from eagle.engine.protocol import SmallRead
from eagle.options import Limits
from eagle.trees.fitted import HeadFit
from eagle.vocab import DraftVocabulary

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(query (B, heads, T, d), key and value (B, kv_heads, T, d) of the same positions) -> (B, heads, T, d).

What else is attended to (a cache, a tree's ancestors, earlier training steps) is the callable's own knowledge."""

Embed = Callable[[Tensor], Tensor]  # token ids (...) -> embeddings (..., H)
INIT_STD = 0.02
KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def rule(kind: type, **limits: Any) -> dict[str, Any]:
    """What the values of a field of `HeadConfig` must be."""
    return {"kind": kind, "limits": Limits(**limits)}


# far beyond any head: a typing error becomes a sentence before it asks for memory
WIDTH, COUNT, VOCABULARY = (rule(int, at_least=1, at_most=most) for most in (2**20, 2**14, 2**24))
FLAG = rule(bool)


@dataclass(frozen=True)
class HeadConfig:
    """The shape of a draft head; `eagle.checkpoints.flat` reads and writes it as a flat Llama `config.json`.

    Raises ValueError at construction when a number is none or lies outside its limits, and when numbers contradict
    each other.
    """

    hidden_size: int = field(metadata=WIDTH)
    target_hidden_size: int = field(metadata=WIDTH)
    intermediate_size: int = field(metadata=WIDTH)
    num_attention_heads: int = field(metadata=COUNT)
    num_key_value_heads: int = field(metadata=COUNT)
    head_dim: int = field(metadata=COUNT)
    vocab_size: int = field(metadata=VOCABULARY)  # V, of the target
    draft_vocab_size: int = field(metadata=VOCABULARY)  # Vd
    feature_layers: tuple[int, int, int]  # layers of the target whose inputs are the low, mid and high feature
    rms_norm_eps: float = field(default=1e-5, metadata=rule(float, above=0, at_most=1))
    rope_theta: float = field(default=10000.0, metadata=rule(float, above=0, at_most=1e12))  # never the target's
    rope_scaling: dict[str, Any] | None = None
    norm_output: bool = field(default=False, metadata=FLAG)
    norm_before_residual: bool = field(default=False, metadata=FLAG)
    norm_before_fc: bool = field(default=False, metadata=FLAG)
    fc_norm: bool = field(default=False, metadata=FLAG)
    own_embedding: bool = field(default=False, metadata=FLAG)

    def __post_init__(self) -> None:
        for one in fields(self):
            check_value(one.name, getattr(self, one.name))
        object.__setattr__(self, "feature_layers", check_feature_layers(self.feature_layers))
        if self.draft_vocab_size > self.vocab_size:
            raise ValueError(
                f"draft_vocab_size is {self.draft_vocab_size}, it must lie in 1..{self.vocab_size} "
                "(the target's vocab_size): count the training data again with `eagle-hsd prepare`"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}: correct config.json"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}, rotation needs an even number: correct config.json")
        if self.hidden_size != self.target_hidden_size and not self.own_embedding:
            raise ValueError(
                f"a head of hidden_size {self.hidden_size} cannot read the embeddings of a target of hidden size "
                f"{self.target_hidden_size}: it must bring its own, embed_tokens.weight of shape "
                f"({self.vocab_size}, {self.hidden_size})"
            )

    def to_llama(self) -> LlamaConfig:
        """The same numbers as transformers' own configuration, for the MLP and the rotation borrowed from it.

        The number of attention heads is left out: neither asks for it, and 5.x wants it to divide the hidden size.
        """
        scaling = self.rope_scaling or {}
        rope: dict[str, Any] = {
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
        }  # 5.x: becomes rope_parameters
        if "original_max_position_embeddings" in scaling:  # changes nothing but a warning
            rope["max_position_embeddings"] = int(
                scaling["original_max_position_embeddings"] * scaling.get("factor", 1)
            )
        return LlamaConfig(
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=1,
            num_attention_heads=1,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            rms_norm_eps=self.rms_norm_eps,
            **rope,
        )


def check_value(name: str, value: Any) -> None:
    """Raises ValueError where `value` is not what the field `name` of `HeadConfig` takes."""
    known = HeadConfig.__dataclass_fields__[name].metadata
    if not known:
        return
    kind, told = known["kind"], f"{name} is {value!r}"
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"{told}, it must be {KINDS[kind]}: correct config.json")
    known["limits"].check(value, told)


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
        self._norm_before_residual = config.norm_before_residual
        size, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = LlamaRMSNorm(size, eps=eps)  # on the token embedding
        self.hidden_norm = LlamaRMSNorm(size, eps=eps)  # on the hidden state
        self.self_attn = HeadAttention(config)
        self.post_attention_layernorm = LlamaRMSNorm(size, eps=eps)
        self.mlp = LlamaMLP(config.to_llama())

    def forward(self, hidden: Tensor, embedding: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        normed = self.hidden_norm(hidden)
        x = torch.cat([self.input_layernorm(embedding), normed], dim=-1)  # (B, T, 2H)
        hidden = normed if self._norm_before_residual else hidden
        hidden = hidden + self.self_attn(x, rotary, attend)  # (B, T, H)
        hidden = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return hidden


class DraftHead(nn.Module):
    """The head as published: `fc`, `midlayer`, `norm`, `lm_head` and the vocabulary map `d2t`, `t2d`.

    Where the flags ask for them also `input_norm` (`norm_before_fc`), `fc_norm` and `embed_tokens` (`own_embedding`).
    Holds parameters only. Caches belong to `eagle.drafters.eagle3`, training steps to `eagle.training`; both reach
    attention through the `attend` argument. Token embeddings are passed in, see `embedding`.
    """

    d2t: Tensor
    t2d: Tensor

    def __init__(self, config: HeadConfig, vocabulary: DraftVocabulary | None = None):
        super().__init__()
        self.config = config
        self.fit: HeadFit | None = None  # what was measured of these weights; `eagle.planner` reads it
        self.trained_length: int | None = None  # tokens of the longest context it was trained on, where that is known
        self.small_read: SmallRead | None = None  # in place of eager passes over a few entries, see `eagle.compiled`
        self.fc = nn.Linear(3 * config.target_hidden_size, config.hidden_size, bias=False)
        self.midlayer = HeadLayer(config)
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.draft_vocab_size, bias=False)
        self.rotary = LlamaRotaryEmbedding(config.to_llama())
        self._add_optional(config)
        vocabulary = vocabulary or DraftVocabulary.first(config.draft_vocab_size, config.vocab_size)
        vocabulary.check_sizes(config.draft_vocab_size, config.vocab_size)
        self.register_buffer("d2t", vocabulary.d2t)
        self.register_buffer("t2d", vocabulary.t2d)

    def _add_optional(self, config: HeadConfig) -> None:
        size, eps = config.target_hidden_size, config.rms_norm_eps
        self.input_norm = LlamaRMSNorm(3 * size, eps=eps) if config.norm_before_fc else None
        self.fc_norm = nn.ModuleList(LlamaRMSNorm(size, eps=eps) for _ in range(3)) if config.fc_norm else None
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size) if config.own_embedding else None
        if self.embed_tokens is not None:
            self.embed_tokens.weight.requires_grad_(False)  # heads are trained beside embeddings that stay

    def init_weights(self, generator: torch.Generator | None = None) -> "DraftHead":
        """Fill every matrix from N(0, 0.02), as the target's own initialisation does; returns self."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=INIT_STD, generator=generator)
        return self

    @property
    def vocabulary(self) -> DraftVocabulary:
        return DraftVocabulary(self.d2t, self.t2d)

    def embedding(self, of_target: Embed) -> Embed:
        """What maps token ids to the embeddings this head reads: its own, or the target's where it brings none."""
        return of_target if self.embed_tokens is None else self.embed_tokens

    def conditioned(self, features: Tensor) -> Tensor:
        """Features (..., 3Ht) as `fc` reads them, normed where the head was trained so: (..., 3Ht)."""
        if self.input_norm is not None:
            features = self.input_norm(features)
        if self.fc_norm is not None:
            parts = zip(self.fc_norm, features.chunk(3, dim=-1), strict=True)
            features = torch.cat([norm(part) for norm, part in parts], dim=-1)
        return features

    def fuse(self, features: Tensor) -> Tensor:
        """Features (..., 3Ht) in the order low, mid, high -> hidden states (..., H)."""
        hidden: Tensor = self.fc(self.conditioned(features))
        return hidden

    def forward(self, hidden: Tensor, embedding: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """One pass of the decoder layer.

        hidden, embedding (B, T, H), positions (B, T) int64 -> output states (B, T, H): before `norm`, or behind it
        with `norm_output`. These are what `logits` reads and what the next draft step takes as its hidden state.
        """
        output: Tensor = self.midlayer(hidden, embedding, self.rotary(hidden, positions), attend)
        return self.norm(output) if self.config.norm_output else output

    def normed(self, output: Tensor) -> Tensor:
        """Output states of `forward` (..., H) -> what `lm_head` reads (..., H): behind `norm`, once."""
        return output if self.config.norm_output else self.norm(output)

    def logits(self, output: Tensor) -> Tensor:
        """Output states of `forward` (..., H) -> logits over the draft vocabulary (..., Vd)."""
        logits: Tensor = self.lm_head(self.normed(output))
        return logits
