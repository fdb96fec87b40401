"""Tiny random models, for checks that need the real machinery and no real text."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from eagle.drafters.head import DraftHead, HeadConfig
from eagle.engine.shape import attention_shape, feed_forward_size
from eagle.engine.target import Target
from eagle.vocab import DraftVocabulary


def random_model(config: PretrainedConfig, seed: int = 0, attention: str = "sdpa") -> PreTrainedModel:
    """A model of this shape in float32 on the CPU.

    Seeds torch's own generator and draws from it, as transformers knows no other.
    """
    torch.manual_seed(seed)
    auto: Any = AutoModelForCausalLM
    model: PreTrainedModel = auto.from_config(config, attn_implementation=attention, dtype=torch.float32).eval()
    return model


def random_head(
    target: Target,
    vocabulary: DraftVocabulary | None = None,
    generator: torch.Generator | None = None,
    **sizes: Any,
) -> DraftHead:
    """A head for this target, in evaluation mode; without a vocabulary it drafts all tokens.

    sizes: fields of `HeadConfig` in place of the target's own.
    """
    shape = attention_shape(target.config)
    own: dict[str, Any] = {
        "intermediate_size": feed_forward_size(target.config),
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
    }
    low, mid, high = target.feature_layers
    config = HeadConfig(
        hidden_size=target.hidden_size,
        target_hidden_size=target.hidden_size,
        vocab_size=target.vocab_size,
        draft_vocab_size=target.vocab_size if vocabulary is None else vocabulary.d2t.numel(),
        feature_layers=(low, mid, high),
        **{**own, **sizes},
    )
    return DraftHead(config, vocabulary).init_weights(generator).eval()
