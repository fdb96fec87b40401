"""Tiny random configurations of the causal language models that transformers knows, one row a family."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from eagle.engine.target import Target

# Whichever of these names a family's configuration has.
SIZES: Mapping[str, Any] = {
    "hidden_size": 32, "d_model": 32, "n_embd": 32,
    "intermediate_size": 64, "ffn_dim": 64, "d_ff": 64, "n_inner": 64, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32, "intermediate_size_mlp": 64, "ffn_hidden_size": 64,
    "num_hidden_layers": 9, "n_layer": 9, "n_layers": 9, "num_layers": 9,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "vocab_size": 97, "max_position_embeddings": 256, "n_positions": 256, "max_seq_len": 256,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    "initializer_range": 0.2, "query_pre_attn_scalar": 8,
}  # fmt: skip
WINDOW = 8  # shorter than the texts, so that every sliding window takes part


def tiny_config(family: str, changes: Mapping[str, Any]) -> PretrainedConfig:
    """The family's own configuration with the sizes above; `changes` go over them, and None leaves a size out."""
    default = AutoConfig.for_model(family).get_text_config(decoder=True)
    sizes = {name: value for name, value in SIZES.items() if hasattr(default, name)}
    if getattr(default, "sliding_window", None) is not None:
        sizes["sliding_window"] = WINDOW
    if getattr(default, "layer_types", None) and not isinstance(getattr(type(default), "layer_types", None), property):
        sizes["layer_types"] = None
    wanted = {**sizes, **changes}
    return type(default)(**{name: value for name, value in wanted.items() if value is not ...})


def family_target(family, changes, dtype=torch.float32) -> Target:
    config = tiny_config(family, changes)
    torch.manual_seed(0)
    try:
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    except ValueError:  # a softcap or sinks: transformers has no other kernel
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return Target(model.to(dtype))


MLA: Mapping[str, Any] = {
    "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
OWN: Mapping[str, Any] = {"layer_types": ...}  # the family works its kinds of layers out of other fields
AS_THEY_ARE = """
    afmoe apertus arcee aria_text biogpt bitnet cohere cohere2 cohere2_moe ctrl diffllama doge ernie4_5
    ernie4_5_moe exaone exaone4 exaone_moe flex_olmo gemma gemma2 gemma3 gemma3_text glm glm4 glm4_moe gpt2
    gpt-sw3 gpt_bigcode gpt_neox gpt_neox_japanese gpt_oss granite granitemoe granitemoeshared helium
    hunyuan_v1_dense hunyuan_v1_moe jais2 jetmoe llama minimax_m2 ministral ministral3 mistral mixtral
    nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe
    seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma xglm
"""
# Trees equal paths. The changes a family's tiny configuration needs beside the sizes above.
RIGHT: Mapping[str, Mapping[str, Any]] = {
    **{family: {} for family in AS_THEY_ARE.split()},
    "codegen": {"rotary_dim": 4},
    "cwm": {"bos_token_id": 1, "eos_token_id": ..., "pad_token_id": 1},
    "deepseek_v2": MLA,
    "deepseek_v3": MLA,
    "falcon": {"head_dim": ...},
    "glm4_moe_lite": MLA,
    "gptj": {"rotary_dim": 4},
    "llama4_text": {"attention_chunk_size": WINDOW},
    "minicpm3": MLA,
    "youtu": MLA,
}
STATE = "keep a running state, which cannot be taken back"
DISTANCES = "the logits of a tree's nodes differ by"
# Refused for trees, each with its reason; decoded plainly.
REFUSED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bloom": ("ends in ValueError", {}),
    "deepseek_v32": ("indexed_attention " + STATE, MLA),
    "falcon_h1": (STATE, {**OWN, "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_state": 8, "mamba_chunk_size": 16}),
    "falcon_mamba": (STATE, OWN),
    "glm_moe_dsa": ("indexed_attention " + STATE, MLA),
    "gpt_neo": (DISTANCES, {"attention_types": [[["global", "local"], 4], [["global"], 1]], "window_size": WINDOW}),
    "jamba": (STATE, OWN),
    "kimi_linear": ("linear_attention " + STATE, {**MLA, "linear_head_dim": 8, "linear_num_heads": 4}),
    "lfm2": ("conv " + STATE, {"layer_types": ["conv", "conv", "full_attention"] * 3}),
    "mamba": (STATE, OWN),
    "minimax": ("linear_attention " + STATE, {}),
    "mpt": (DISTANCES, {}),
    "olmo_hybrid": ("linear_attention " + STATE, {}),
    "qwen3_5_text": ("linear_attention " + STATE, {}),
    "qwen3_next": ("linear_attention " + STATE, {}),
    "rwkv": (STATE, {}),
}
# Neither: no cache that could be handed on, or no decoder of a text of its own.
UNREADABLE: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "openai-gpt": ("cannot be decoded here: its forward ends in AttributeError", {}),
    "recurrent_gemma": ("cannot be decoded here: its forward ends in AttributeError", OWN),
    "bert": ("expected one list of 9 decoder layers, found 0", {}),
    "bart": ("expected one list of 9 decoder layers, found 0", {}),
}
