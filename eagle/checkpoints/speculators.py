"""The speculators layout of an EAGLE-3 head, which vLLM detects, to and from the flat one.

    flat                        speculators
    midlayer.*                  layers.0.*
    flat Llama fields           transformer_layer_config
    eagle_feature_layers        eagle_aux_hidden_state_layer_ids (inputs as well)
    the flags of `fields`       the same, at the top; written also where they are false

vLLM takes an absent `norm_before_residual` for true, speculators' own code for false, and so do we: the library that
writes the files always writes the field.

Pure functions on (config, tensors). What a nested file may say is in `eagle.checkpoints.fields`, as for a flat one.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from eagle.checkpoints.fields import FLAGS, Config, flags
from eagle.checkpoints.tensors import OURS, THEIRS, State

LAYER_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "vocab_size",
)
TOP_FIELDS = ("draft_vocab_size", "eagle_aux_hidden_state_layer_ids", "target_hidden_size")
DRAFT_TOKENS = 4  # what the engine drafts unless it is told otherwise


def is_speculators(config: Mapping[str, Any]) -> bool:
    return "transformer_layer_config" in config or "speculators_model_type" in config


def to_flat(config: Mapping[str, Any]) -> Config:
    """The flat config of a nested one that `check_fields` has passed."""
    layer = config.get("transformer_layer_config") or {}
    fields = {name: layer[name] for name in LAYER_FIELDS if layer.get(name) is not None}
    fields |= {name: config[name] for name in (*TOP_FIELDS, "eagle_config") if config.get(name) is not None}
    common = {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "num_hidden_layers": 1}
    return {**common, **fields, **flags(config)}


def from_flat(
    config: Mapping[str, Any], state: Mapping[str, Tensor], target_name: str, target_architecture: str
) -> tuple[Config, State]:
    """The nested config and renamed tensors. `target_name` is where vLLM finds the target ("verifier")."""
    layers = config.get("eagle_feature_layers")
    if layers is None:
        raise ValueError("config.json names no eagle_feature_layers: pass the target, its layer count decides them")
    layer = {name: config[name] for name in LAYER_FIELDS if config.get(name) is not None}
    proposal = {
        "proposal_type": "greedy",
        "speculative_tokens": DRAFT_TOKENS,
        "accept_tolerance": 0.0,
        "verifier_accept_k": 1,
    }
    nested = {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [proposal],
            "verifier": {"name_or_path": target_name, "architectures": [target_architecture]},
        },
        "transformer_layer_config": {"model_type": "llama", "num_hidden_layers": 1, "attention_bias": False, **layer},
        "draft_vocab_size": config["draft_vocab_size"],
        "target_hidden_size": config.get("target_hidden_size"),
        **{name: config.get(name, False) for name in FLAGS},
        "eagle_aux_hidden_state_layer_ids": list(layers),
        "tie_word_embeddings": False,
        "torch_dtype": config.get("torch_dtype", "bfloat16"),
    }
    return nested, _renamed(state, OURS, THEIRS)


def _renamed(state: Mapping[str, Tensor], old: str, new: str) -> State:
    return {new + name.removeprefix(old) if name.startswith(old) else name: tensor for name, tensor in state.items()}
