"""The tensors of a head: one set of names for every layout, the kinds of drafters that are none, and what a weight is.

published as                                        here
layers.0.*                  speculators, vLLM       midlayer.*
model.*, module.*           vLLM, NeMo, wrappers    without the prefix
draft_id_to_target_id       vLLM                    d2t
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from eagle.dtypes import dtype_name

State = dict[str, Tensor]

PREFIXES = ("module.", "draft_model.", "model.")
OURS, THEIRS = "midlayer.", "layers.0."
MAPS = ("d2t", "t2d")
EMBEDDING = "embed_tokens.weight"
UNUSED = ("verifier_lm_head.weight", "verifier_norm.weight")  # frozen parts of the target, for training only
FREQUENCIES = "rotary_emb.inv_freq"  # computed from config.json
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OTHER_KINDS = (  # what tells them: a tensor's name, or a key of config.json
    (r"medusa|^\d+\.\d+\.(linear\.)?weight$", "a Medusa head"),
    (r"hydra", "a Hydra head"),
    (r"^mask_hidden$|^parallel_draft_heads\.", "a head for parallel drafting (P-EAGLE)"),
    (r"dflash", "a DFlash drafter"),
    (r"(^|\.)eh_proj\.|(^|\.)enorm\.", "a head for multi-token prediction (MTP)"),
    (r"^(emb|proj|head|ln)\.\d+\.weight$|^speculator\.", "an MLP speculator"),
    (r"^fusion_fc\.", "an EAGLE-1 or EAGLE-2 head"),
)


def canonical(state: Mapping[str, Tensor]) -> State:
    """The tensors under our names, without those that nothing reads. Raises ValueError for one that is there twice."""
    named: State = {}
    for name, tensor in state.items():
        own = canonical_name(name)
        if own in UNUSED or own.endswith(FREQUENCIES):
            continue
        if own in named:
            raise ValueError(f"the checkpoint holds {own} twice, once as {name}: export the head again")
        named[own] = tensor
    return named


def canonical_name(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    if name == "draft_id_to_target_id":
        return "d2t"
    return OURS + name.removeprefix(THEIRS) if name.startswith(THEIRS) else name


def refuse_other_kinds(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Raises ValueError for everything that is no EAGLE-3 head, and says what it is where that can be seen."""
    kind = _kind_by_name([*config, *state]) or _kind_by_shape(state)
    if kind is not None:
        raise ValueError(f"this is {kind}, not an EAGLE-3 head: name an EAGLE-3 head of the same target")


def check_tensors(state: Mapping[str, Tensor]) -> None:
    """Raises ValueError for weights that are no plain floating point numbers, and for NaN and infinite ones."""
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise ValueError(f"{name} is no plain tensor ({tensor.layout}): store the head's weights as they are")
        if name in MAPS:
            _check_map(name, tensor)
        elif tensor.dtype not in FLOATS:
            raise ValueError(
                f"{name} is of type {dtype_name(tensor.dtype)}: weights must be float16, bfloat16 or float32, "
                "quantised ones are not read"
            )
        elif not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds NaN or infinite numbers: training diverged, or the file is damaged")


def _check_map(name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() or tensor.is_complex() or (name == "d2t" and tensor.dtype == torch.bool):
        wanted = "whole numbers, the offset of every draft id" if name == "d2t" else "true and false"
        raise ValueError(f"{name} is of type {dtype_name(tensor.dtype)}, it must hold {wanted}")
    if tensor.dim() != 1:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, it must have one dimension")


def _kind_by_name(names: Iterable[str]) -> str | None:
    names = list(names)
    return next((kind for pattern, kind in OTHER_KINDS if any(re.search(pattern, name) for name in names)), None)


def _kind_by_shape(state: Mapping[str, Tensor]) -> str | None:
    """EAGLE-1 and EAGLE-2 fuse an embedding with one feature and attend to that alone: no norm of the hidden state."""
    layers = {match[1] for name in state if (match := re.match(r"layers\.(\d+)\.", name))}
    if "fc.weight" in state:
        return None if f"{OURS}hidden_norm.weight" in state or not _has_layer(state) else "an EAGLE-1 or EAGLE-2 head"
    if layers or (EMBEDDING in state and _has_layer(state)):
        return f"a language model of {len(layers) + 1} layers, a target,"
    return None


def _has_layer(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(f"{OURS}self_attn.") for name in state)
