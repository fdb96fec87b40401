"""The shape of a target's layers: what the configurations of transformers' models state in several ways, or not."""

from dataclasses import dataclass

from transformers import PretrainedConfig

SLIDING, FULL, CHUNKED = "sliding_attention", "full_attention", "chunked_attention"  # transformers' names of kinds
ATTENTION_KINDS = frozenset({SLIDING, FULL, CHUNKED})  # layers of any other kind keep a running state


@dataclass(frozen=True)
class AttentionShape:
    """Heads of a layer, and how far back its layers look."""

    num_heads: int
    num_key_value_heads: int  # as many as there are heads where none share keys
    head_dim: int
    sliding_window: int | None  # tokens that layers of limited sight attend to; None: every layer sees everything
    has_full_layers: bool  # whether some layers, or all, see everything
    chunk: int | None = None  # positions of a block beyond which layers of kind CHUNKED (Llama 4) do not look


def attention_shape(config: PretrainedConfig) -> AttentionShape:
    """Read off the configuration of a text model. Raises ValueError where it has no attention."""
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        raise ValueError(f"{config.model_type} has no attention heads: a draft head needs keys and values to read")
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [FULL if window is None else SLIDING])
    return AttentionShape(
        num_heads=heads,
        num_key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        sliding_window=window if SLIDING in kinds else None,
        has_full_layers=FULL in kinds or (window is None and kinds != {CHUNKED}),
        chunk=getattr(config, "attention_chunk_size", None) if CHUNKED in kinds else None,
    )


def feed_forward_size(config: PretrainedConfig) -> int:
    """Width of the MLP of a dense layer, under whichever name; four times the hidden size where none is given."""
    names = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "dff")
    return int(next((size for name in names if (size := getattr(config, name, None))), 4 * config.hidden_size))
