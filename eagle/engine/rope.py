"""How far a target reads, and where its rotary frequencies change with the length of what is read.

Most scalings turn a token by its position alone. Two look at the furthest position of the pass, so that one deep node
of a tree would turn the root and all its siblings by other angles than plain decoding does:

    longrope (Phi-3, Phi-4-mini)   short factors while the text fits into `original_max_position_embeddings`, long ones
                                   beyond. `generate` of those models reads the whole text again where they change
    dynamic (NTK)                  beyond `max_position_embeddings` every further token changes all frequencies
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PretrainedConfig

NO_LIMIT = 2**31 - 1  # of targets without positions of their own, such as ALiBi's
LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
READS_AGAIN = frozenset({"phi3", "phimoe", "phi4_multimodal"})  # model types whose `generate` does at the change
STRETCHED = frozenset({"yarn", "linear", "dynamic"})  # made to read `factor` times as far as they were trained on


@dataclass(frozen=True)
class RopeSwitch:
    """A pass that reaches further than the first `at` tokens turns all of its tokens by other angles."""

    at: int
    reads_again: bool  # plain decoding reads the text again when it grows beyond `at`
    keeps_changing: bool  # every token beyond changes the angles once more: there no tree can be scored


def rope_switch(config: PretrainedConfig) -> RopeSwitch | None:
    """Read off the configuration of a text model; None: a token's angles depend on its position alone."""
    for rope in _scalings(config):
        kind = rope.get("rope_type") or rope.get("type")
        if kind == "dynamic":
            return RopeSwitch(config.max_position_embeddings, reads_again=False, keeps_changing=True)
        if kind in ("longrope", "su"):
            at = rope.get("original_max_position_embeddings") or config.original_max_position_embeddings
            return RopeSwitch(at, reads_again=config.model_type in READS_AGAIN, keeps_changing=False)
    return None


def context_limit(config: PretrainedConfig) -> int:
    """Tokens a text model was made to read: its positions, or as many as its scaling stretches them to."""
    known = (getattr(config, name, None) for name in LIMITS)
    limit = int(next((value for value in known if value), NO_LIMIT))
    for rope in _scalings(config):
        if (rope.get("rope_type") or rope.get("type")) in STRETCHED and rope.get("factor"):
            limit = max(limit, int(rope["factor"] * (rope.get("original_max_position_embeddings") or limit)))
    return limit


def _scalings(config: PretrainedConfig) -> Iterator[Mapping[str, Any]]:
    """The scaling of all layers, or that of each kind of layer; transformers 4.57 calls it otherwise than 5.x."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if isinstance(rope, Mapping):
        nested = [value for value in rope.values() if isinstance(value, Mapping)]
        yield from nested or [rope]


def forget_growth(model: nn.Module) -> None:
    """Take back what a longer text left in `dynamic` frequencies, so that a pass depends on its own text only."""
    modules: Iterator[Any] = model.modules()
    for module in modules:
        if getattr(module, "rope_type", None) == "dynamic" and module.max_seq_len_cached > module.original_max_seq_len:
            module.inv_freq = module.original_inv_freq.to(module.inv_freq.device, copy=True)
            module.max_seq_len_cached = module.original_max_seq_len
