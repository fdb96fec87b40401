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

from eagle.drafters.head import HeadConfig
from eagle.vocab import DraftVocabulary

Config = dict[str, Any]
State = dict[str, Tensor]

DEFAULT_ROPE_THETA = 10000.0  # published heads have no rope_theta in their config and rotate with this base
DEFAULT_RMS_NORM_EPS = 1e-6  # of transformers' LlamaConfig, for files that leave it out
REQUIRED_FIELDS = ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")


def head_config(
    config: Mapping[str, Any], state: Mapping[str, Tensor], feature_layers: tuple[int, int, int] | None = None
) -> HeadConfig:
    """The shape of the head described by a flat config and its tensors.

    `feature_layers` is used when the config names none. Raises ValueError for missing or contradicting fields.
    """
    missing = [name for name in REQUIRED_FIELDS if name not in config]
    if missing or "fc.weight" not in state:
        raise ValueError(f"not an EAGLE-3 head: config.json lacks {missing}, fc.weight found: {'fc.weight' in state}")
    layers = config_feature_layers(config) or feature_layers
    if layers is None:
        raise ValueError("config.json names no feature layers: pass the target, its layer count decides them")
    heads = config["num_attention_heads"]
    return HeadConfig(
        hidden_size=config["hidden_size"],
        target_hidden_size=state["fc.weight"].shape[-1] // 3,
        intermediate_size=config["intermediate_size"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab_size=config["vocab_size"],
        draft_vocab_size=config.get("draft_vocab_size") or config["vocab_size"],
        feature_layers=layers,
        rms_norm_eps=config.get("rms_norm_eps", DEFAULT_RMS_NORM_EPS),
        **_rope(config),
    )


def config_feature_layers(config: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """The feature layers counted by their inputs, None when the config has no field for them.

    Raises ValueError when two fields disagree, or when there are not three layers.
    """
    outputs = (config.get("eagle_config") or {}).get("eagle_aux_hidden_state_layer_ids")
    claims = {
        "eagle_feature_layers": config.get("eagle_feature_layers"),
        "eagle_config.eagle_aux_hidden_state_layer_ids, plus 1": outputs and [layer + 1 for layer in outputs],
        "eagle_aux_hidden_state_layer_ids": config.get("eagle_aux_hidden_state_layer_ids"),
    }
    found = {name: tuple(layers) for name, layers in claims.items() if layers}
    if len(set(found.values())) > 1 or any(len(layers) != 3 for layers in found.values()):
        raise ValueError(f"config.json must name the same three feature layers everywhere, found {found}")
    return next(iter(found.values()), None)


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
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "eagle_feature_layers": list(head.feature_layers),
        "eagle_aux_hidden_state_layer_ids": list(head.feature_layers),
        "eagle_config": {
            "eagle_aux_hidden_state_layer_ids": [layer - 1 for layer in head.feature_layers],
            "use_aux_hidden_state": True,
        },
    }


def vocabulary(state: Mapping[str, Tensor], config: HeadConfig) -> DraftVocabulary:
    """The checkpoint's vocabulary map, checked against itself and the config.

    A file without t2d is completed from d2t; without both, Vd must equal V. Raises ValueError otherwise, and for a
    d2t whose ids are not the ones t2d marks (an `arange` where offsets belong is caught here).
    """
    size, full = config.draft_vocab_size, config.vocab_size
    if "d2t" not in state:
        if size != full or "t2d" in state:
            raise ValueError(f"d2t is missing, yet the head predicts {size} of {full} tokens: the file is incomplete")
        return DraftVocabulary.first(full, full)
    d2t = state["d2t"].long()
    if d2t.shape != (size,):
        raise ValueError(f"d2t has shape {tuple(d2t.shape)}, config.json says draft_vocab_size {size}")
    built = DraftVocabulary.from_target_ids(d2t + torch.arange(size), full)
    if "t2d" in state and not torch.equal(state["t2d"].bool(), built.t2d):
        raise ValueError(f"t2d marks other ids than d2t ({int(state['t2d'].sum())} and {size}): d2t must hold offsets")
    return built


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    parameters = dict(config.get("rope_parameters") or {})  # where transformers 5 keeps both
    theta = parameters.pop("rope_theta", None) or config.get("rope_theta") or DEFAULT_ROPE_THETA
    scaling = config.get("rope_scaling") or parameters
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return {"rope_theta": float(theta), "rope_scaling": dict(scaling) if kind != "default" else None}
