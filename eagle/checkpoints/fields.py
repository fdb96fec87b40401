"""What a head's config.json may say: one table of the fields that change what a head computes, for every layout.

A field stands at the top, in `eagle_config` (SpecForge, ModelOpt, SGLang), in `transformer_layer_config` or in
`speculators_config` (speculators, vLLM). It is looked for in all of them, and null is the same as absent.

    FLAGS    `DraftHead` computes them either way
    FIXED    only these values are computed; another one is refused with its reason, never approximated
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from eagle.drafters.head import HeadConfig, check_value

Config = dict[str, Any]

NESTED = ("eagle_config", "transformer_layer_config", "speculators_config")
FLAGS = ("norm_output", "norm_before_residual", "norm_before_fc", "fc_norm")
FULL = "full_attention"
PLAIN_LAYERS = ("llama", "mistral", "phi3", "qwen2", "qwen3")  # published for layers that are Llama's, whatever it says


@dataclass(frozen=True)
class Fixed:
    """The values that are computed (none: the field has to be absent), and what another one would mean."""

    values: tuple[Any, ...]
    reason: str


ONE_LAYER = "the head is one decoder layer"
NO_BIAS = "its projections have no bias"
ONE_TOKEN = "a draft step continues the output of the step before it"
FLOATS = "weights are read as floating point numbers"
FIXED = {
    "speculators_model_type": Fixed(("eagle3",), "that is another kind of drafter"),
    "algorithm": Fixed(("eagle3",), "that is another kind of drafter"),
    "num_hidden_layers": Fixed((1,), ONE_LAYER),
    "num_local_experts": Fixed((0,), "its MLP has no experts"),
    "num_experts": Fixed((0,), "its MLP has no experts"),
    "hidden_act": Fixed(("silu", "swish"), "its MLP has a SiLU"),
    "hidden_activation": Fixed(("silu", "swish"), "its MLP has a SiLU"),
    "attention_bias": Fixed((False,), NO_BIAS),
    "qkv_bias": Fixed((False,), NO_BIAS),
    "mlp_bias": Fixed((False,), NO_BIAS),
    "bias": Fixed((False,), NO_BIAS),
    "use_qk_norm": Fixed((False,), "queries and keys are not normed"),
    "is_causal": Fixed((True,), "its attention is causal"),
    "attn_logit_softcapping": Fixed((), "its attention has no cap"),
    "final_logit_softcapping": Fixed((), "its logits have no cap"),
    "logit_scale": Fixed((1, 1.0), "its logits are not scaled"),
    "partial_rotary_factor": Fixed((1, 1.0), "all of an attention head is rotated"),
    "use_aux_hidden_state": Fixed((True,), "the head reads three features, not the target's last state"),
    "num_aux_hidden_states": Fixed((3,), "the head reads three features"),
    "use_input_layernorm_in_first_layer": Fixed((True,), "embeddings are normed before attention"),
    "use_last_layernorm": Fixed((True,), "the output is normed before lm_head"),
    "use_mtp_layernorm": Fixed((False,), "that is a head for multi-token prediction"),
    "parallel_drafting": Fixed((False,), ONE_TOKEN),
    "parallel_draft_step": Fixed((0, 1), ONE_TOKEN),
    "quantization_config": Fixed((), FLOATS),
    "compression_config": Fixed((), FLOATS),
}


class Claim(NamedTuple):
    """What a config says of a field, and where."""

    path: str  # "eagle_config.norm_output"
    name: str
    value: Any


def claims(config: Mapping[str, Any]) -> Iterator[Claim]:
    """Every field of every place that is not null. Raises ValueError where a place holds something else."""
    for place in ("", *NESTED):
        found = config if not place else config.get(place)
        if found is None:
            continue
        if not isinstance(found, Mapping):
            raise ValueError(f"{place} is {found!r}, it must be an object {{...}}: correct config.json")
        prefix = f"{place}." if place else ""
        yield from (Claim(f"{prefix}{name}", name, value) for name, value in found.items() if value is not None)


def check_fields(config: Mapping[str, Any]) -> None:
    """Raises ValueError that names field, value and reason where the head computes something else than we do."""
    found = list(claims(config))
    wrong = [
        f"{claim.path} is {claim.value!r}, {_wanted(FIXED[claim.name])} ({FIXED[claim.name].reason})"
        for claim in found
        if claim.name in FIXED and not _is_among(claim.value, FIXED[claim.name].values)
    ]
    wrong += [*_layer_of_another_family(found), *_window(found), *_tied(config)]
    if wrong:
        raise ValueError("this head computes something else than this project's EAGLE-3 heads: " + "; ".join(wrong))
    _check_unused(found)


def flags(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of `HeadConfig` that the config sets. Raises ValueError for other values and contradictions."""
    set_: dict[str, Claim] = {}
    for claim in claims(config):
        if claim.name in FLAGS:
            check_value(claim.name, claim.value)
            before = set_.setdefault(claim.name, claim)
            if before.value != claim.value:
                raise ValueError(f"{before.path} is {before.value}, {claim.path} is {claim.value}: correct config.json")
    return {name: claim.value for name, claim in set_.items()}


def read_number(config: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """A field of `HeadConfig` as config.json has it, the default where it is absent. Raises ValueError, see there."""
    value = default if config.get(name) is None else config[name]
    check_value(name, value)
    return float(value) if HeadConfig.__dataclass_fields__[name].type in (float, "float") else value


def _is_among(value: Any, values: tuple[Any, ...]) -> bool:
    return any(type(value) is type(one) and value == one for one in values)


def _wanted(fixed: Fixed) -> str:
    return f"not {' or '.join(map(repr, fixed.values)) or 'absent'}"


def _layer_of_another_family(found: list[Claim]) -> Iterator[str]:
    """What `model_type` says of the layer: at the top of a nested config it names the file format instead."""
    nested = any(claim.path.startswith("transformer_layer_config.") for claim in found)
    path = "transformer_layer_config.model_type" if nested else "model_type"
    for claim in found:
        if claim.path == path and claim.value not in PLAIN_LAYERS:
            yield f"{path} is {claim.value!r}, not one of {', '.join(PLAIN_LAYERS)} (its layer is Llama's)"


def _window(found: list[Claim]) -> Iterator[str]:
    """A window that is switched off, or belongs to other layers than the first, changes nothing."""
    windows, kinds = ([claim for claim in found if claim.name == name] for name in ("sliding_window", "layer_types"))
    if wrong := [claim for claim in kinds if not _is_list_of_names(claim.value)]:
        yield from (f"{claim.path} is {claim.value!r}, not a list such as [{FULL!r}]" for claim in wrong)
        return
    first = {claim.value[0] for claim in kinds}
    is_off = any(claim.name == "use_sliding_window" and claim.value is False for claim in found)
    if not is_off and first != {FULL}:
        wanted = f"not absent or [{FULL!r}] (the head attends to everything before it)"
        yield from (f"{claim.path} is {claim.value!r}, {wanted}" for claim in windows or kinds)


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _tied(config: Mapping[str, Any]) -> Iterator[str]:
    """Many a small target's config was copied with its tied matrices; over a part of the vocabulary none can be."""
    tied = config.get("tie_word_embeddings")
    if not isinstance(tied, bool | None):
        yield f"tie_word_embeddings is {tied!r}, not False"
    elif tied and config.get("draft_vocab_size") in (None, config.get("vocab_size")):
        yield "tie_word_embeddings is True, not False (the output layer is lm_head.weight, not the embedding)"


def _check_unused(found: list[Claim]) -> None:
    """Fields that change nothing are read by other programs: what they cannot read is told here."""
    for claim in found:
        if claim.name in ("torch_dtype", "dtype"):
            dtype = getattr(torch, str(claim.value).removeprefix("torch."), None)
            if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
                raise ValueError(f"{claim.path} is {claim.value!r}, it must be a type such as 'bfloat16': correct it")
        if claim.name == "max_position_embeddings" and (type(claim.value) is not int or claim.value < 1):
            raise ValueError(f"{claim.path} is {claim.value!r}, it must be a whole number, at least 1: correct it")
