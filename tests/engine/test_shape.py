"""How far a target looks back, read off configurations that state it in different ways."""

import pytest
from transformers import AutoConfig

from eagle.engine.shape import AttentionShape, attention_shape

SIZES = {"hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 8}


@pytest.mark.parametrize(
    ("family", "settings", "expected"),
    [
        ("llama", {}, AttentionShape(6, 6, 8, None, True)),
        ("llama", {"num_key_value_heads": 2, "head_dim": 16}, AttentionShape(6, 2, 16, None, True)),
        ("mistral", {"num_key_value_heads": 2, "sliding_window": None}, AttentionShape(6, 2, 8, None, True)),
        ("mistral", {"num_key_value_heads": 2, "sliding_window": 5}, AttentionShape(6, 2, 8, 5, False)),
        ("gemma2", {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 5}, AttentionShape(6, 2, 8, 5, True)),
        ("qwen2", {"num_key_value_heads": 2, "sliding_window": 5}, AttentionShape(6, 2, 8, None, True)),
    ],
)
def test_heads_and_window(family, settings, expected):
    """Mistral slides in every layer without naming kinds, Gemma 2 in every second; Qwen 2 states a window unused."""
    assert attention_shape(AutoConfig.for_model(family, **SIZES, **settings)) == expected
