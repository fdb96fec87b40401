"""How a target attends: facts that the configurations of transformers' models state in several ways, or leave out."""

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
    """Read off the configuration of a text model."""
    heads = config.num_attention_heads
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
