"""The published layouts of EAGLE-3 heads, as pure functions on (config, tensors); no file is opened here.

    flat         SafeAILab, SpecForge, AngelSlim, SGLang: `midlayer.*`, a flat Llama config plus `draft_vocab_size`
    speculators  vLLM: `layers.0.*`, a nested config, see `eagle.checkpoints.speculators`

One thing has three names, the layers whose hidden states are the features:

    field                                            counts          who
    eagle_feature_layers                             inputs          this project
    eagle_config.eagle_aux_hidden_state_layer_ids    outputs (-1)    SpecForge, AngelSlim, SGLang
    eagle_aux_hidden_state_layer_ids                 inputs          speculators, vLLM

Mixing inputs and outputs fails silently, so a config that has more than one field must agree with itself.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from eagle.checkpoints.fields import FLAGS, Config, flags, read_number
from eagle.checkpoints.rotation import rotation
from eagle.checkpoints.tensors import EMBEDDING
from eagle.drafters.head import HeadConfig
from eagle.dtypes import dtype_name
from eagle.engine.feature_layers import check_feature_layers, default_feature_layers
from eagle.vocab import DraftVocabulary

DEFAULT_RMS_NORM_EPS = 1e-6  # of transformers' LlamaConfig, for files that leave it out
REQUIRED_FIELDS = ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")


def head_config(
    config: Mapping[str, Any], state: Mapping[str, Tensor], num_target_layers: int | None = None
) -> HeadConfig:
    """The shape of the head described by a flat config and its tensors.

    `num_target_layers` decides the feature layers when the config names none. Raises ValueError for missing or
    contradicting fields.
    """
    missing = [name for name in REQUIRED_FIELDS if config.get(name) is None]
    if missing or "fc.weight" not in state:
        raise ValueError(f"not an EAGLE-3 head: config.json lacks {missing}, fc.weight found: {'fc.weight' in state}")
    layers = config_feature_layers(config)
    if layers is None and num_target_layers is None:
        raise ValueError("config.json names no feature layers: pass the target, its layer count decides them")
    size, heads, vocab_size = (
        read_number(config, name) for name in ("hidden_size", "num_attention_heads", "vocab_size")
    )
    return HeadConfig(
        hidden_size=size,
        target_hidden_size=_target_hidden_size(config, state["fc.weight"]),
        intermediate_size=read_number(config, "intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=read_number(config, "num_key_value_heads", heads),
        head_dim=read_number(config, "head_dim", size // heads),
        vocab_size=vocab_size,
        draft_vocab_size=read_number(config, "draft_vocab_size", vocab_size),
        feature_layers=layers or default_feature_layers(num_target_layers or 0),
        rms_norm_eps=read_number(config, "rms_norm_eps", DEFAULT_RMS_NORM_EPS),
        own_embedding=EMBEDDING in state,
        **rotation(config),
        **flags(config),
    )


def _target_hidden_size(config: Mapping[str, Any], fusion: Tensor) -> int:
    """From the fusion, which reads three features; a config that names another size is refused."""
    width = fusion.shape[-1] if fusion.dim() == 2 else 0
    size = read_number(config, "target_hidden_size", max(width // 3, 1))
    if width != 3 * size:
        raise ValueError(
            f"fc.weight has shape {tuple(fusion.shape)}, an EAGLE-3 head reads three features of the target, "
            f"3 * {size} numbers a token: heads that read one feature or another number of layers are not computed"
        )
    return int(size)


def config_feature_layers(config: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """The feature layers counted by their inputs, None when the config has no field for them.

    Raises ValueError when two fields disagree, and for what are no three layers in rising order.
    """
    nested = config.get("eagle_config") or {}
    fields = {  # name -> what it says, and what has to be added for inputs
        "eagle_feature_layers": (config.get("eagle_feature_layers"), 0),
        "eagle_config.eagle_aux_hidden_state_layer_ids": (nested.get("eagle_aux_hidden_state_layer_ids"), 1),
        "eagle_aux_hidden_state_layer_ids": (config.get("eagle_aux_hidden_state_layer_ids"), 0),
    }
    found = {name: _as_inputs(name, *field) for name, field in fields.items() if field[0] not in (None, [])}
    if len(set(found.values())) > 1:
        raise ValueError(f"config.json must name the same three feature layers everywhere, found {found} (as inputs)")
    return next(iter(found.values()), None)


def _as_inputs(name: str, layers: Any, added: int) -> tuple[int, int, int]:
    try:
        low, middle, high = check_feature_layers(layers)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return low + added, middle + added, high + added


def flat_config(head: HeadConfig, dtype: torch.dtype) -> Config:
    """The flat config.json, with the feature layers in every engine's own convention."""
    rope = {"rope_scaling": head.rope_scaling} if head.rope_scaling else {}
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": head.hidden_size,
        "target_hidden_size": head.target_hidden_size,
        "intermediate_size": head.intermediate_size,
        "num_hidden_layers": 1,
        "num_attention_heads": head.num_attention_heads,
        "num_key_value_heads": head.num_key_value_heads,
        "head_dim": head.head_dim,
        "max_position_embeddings": 2048,  # as published; a remnant of training, nothing reads it as a limit
        "rms_norm_eps": head.rms_norm_eps,
        "rope_theta": head.rope_theta,
        **rope,
        "vocab_size": head.vocab_size,
        "draft_vocab_size": head.draft_vocab_size,
        **{name: True for name in FLAGS if getattr(head, name)},
        "tie_word_embeddings": False,
        "torch_dtype": dtype_name(dtype),
        "eagle_feature_layers": list(head.feature_layers),
        "eagle_aux_hidden_state_layer_ids": list(head.feature_layers),
        "eagle_config": {
            "eagle_aux_hidden_state_layer_ids": [layer - 1 for layer in head.feature_layers],
            "use_aux_hidden_state": True,
        },
    }


def vocabulary(state: Mapping[str, Tensor], config: HeadConfig) -> DraftVocabulary:
    """The checkpoint's vocabulary map, checked against itself and the config.

    A file without t2d is completed from d2t; without d2t, Vd must equal V. The ids may stand in any order. Raises
    ValueError otherwise, and for a d2t whose ids are not the ones t2d marks (an `arange` where offsets belong is
    caught here).
    """
    size, full = config.draft_vocab_size, config.vocab_size
    if "d2t" not in state:
        if size != full or not state.get("t2d", torch.ones(1)).all():
            raise ValueError(f"d2t is missing, yet the head predicts {size} of {full} tokens: the file is incomplete")
        return DraftVocabulary.first(full, full)
    d2t = state["d2t"].long()
    if d2t.shape != (size,):
        raise ValueError(f"d2t has shape {tuple(d2t.shape)}, config.json says draft_vocab_size {size}")
    built = DraftVocabulary.from_target_ids(d2t + torch.arange(size), full)
    if "t2d" in state and not torch.equal(state["t2d"].bool(), built.t2d):
        raise ValueError(f"t2d marks other ids than d2t ({int(state['t2d'].sum())} and {size}): d2t must hold offsets")
    return built
