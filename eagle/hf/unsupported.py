"""What `generate` can be asked for and a drafted loop cannot do: refused with the reason, never left out."""

from typing import Any

from transformers import GenerationConfig
from transformers.generation import GenerationMode

REASONS = {
    "custom_generate": "it takes the place of the loop that drafts",
    "assistant_model": "the head drafts here, an assistant would draft beside it",
    "inputs_embeds": "a drafter reads token ids",
    "position_ids": "positions are counted from the attention mask",
    "past_key_values": "the head knows only what the target read with it: give the whole text as input_ids",
    "cache": "the head knows only what the target read with it: give the whole text as input_ids",
    "cache_params": "the head knows only what the target read with it: give the whole text as input_ids",
    "encoder_outputs": "there is no encoder",
    "decoder_input_ids": "there is no encoder",
    "negative_prompt_ids": "guidance needs a second run of the target for every token",
    "negative_prompt_attention_mask": "guidance needs a second run of the target for every token",
}
MODES = {
    GenerationMode.BEAM_SEARCH: "num_beams",
    GenerationMode.BEAM_SAMPLE: "num_beams",
    GenerationMode.GROUP_BEAM_SEARCH: "num_beam_groups",
    GenerationMode.CONSTRAINED_BEAM_SEARCH: "constraints, force_words_ids",
    GenerationMode.CONTRASTIVE_SEARCH: "penalty_alpha",
    GenerationMode.DOLA_GENERATION: "dola_layers",
    GenerationMode.ASSISTED_GENERATION: "prompt_lookup_num_tokens, assistant_model",
}
OUTPUTS = {
    "output_attentions": "attentions of a pass over a tree are not those of a pass over the text",
    "output_hidden_states": "states of a pass over a tree are not kept",
}
REMEDY = "; leave it out, or release(model) for this call"
PLAIN = {  # what may stand beside the fields of a generation configuration
    *("input_ids", "attention_mask", "tokenizer", "streamer", "logits_processor", "stopping_criteria"),
    *("prefix_allowed_tokens_fn", "synced_gpus", "trust_remote_code", "logits_to_keep", "use_model_defaults"),
    *("assistant_tokenizer", "token_type_ids"),
}


def check_arguments(told: dict[str, Any]) -> None:
    """Raises ValueError for arguments of a call that the drafted loop cannot honour, named with the reason."""
    fields = config_fields() | PLAIN
    for name, value in told.items():
        if value is None:
            continue
        if name in REASONS:
            raise ValueError(f"generate({name}=..) cannot be drafted: {REASONS[name]}{REMEDY}")
        if name not in fields:
            raise ValueError(f"generate({name}=..) is passed to the model, which reads draft trees here{REMEDY}")


def config_fields() -> set[str]:
    """Names of what a generation configuration holds."""
    config: Any = GenerationConfig
    return set(config().to_dict())


def check_mode(config: GenerationConfig, assistant: Any) -> None:
    """Raises ValueError for beams and other searches, before transformers looks for them elsewhere."""
    mode = config.get_generation_mode(assistant)
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        fields = f" ({MODES[mode]})" if mode in MODES else ""
        told = f"generation mode '{mode.value}'{fields}"
        raise ValueError(f"{told} cannot be drafted: greedy decoding and sampling can{REMEDY}")
    if config.guidance_scale is not None and config.guidance_scale != 1:
        raise ValueError(f"guidance_scale cannot be drafted: {REASONS['negative_prompt_ids']}{REMEDY}")
    for name, reason in OUTPUTS.items():
        if getattr(config, name, None) and config.return_dict_in_generate:
            raise ValueError(f"{name} cannot be handed out: {reason}{REMEDY}")
    if config.cache_implementation in ("quantized", "offloaded", "offloaded_static", "paged"):
        told = f"cache_implementation '{config.cache_implementation}'"
        raise ValueError(f"{told} cannot be drafted: trees need a cache that entries can be dropped from{REMEDY}")


def check_loop(config: GenerationConfig, synced_gpus: bool, model_kwargs: dict[str, Any]) -> None:
    """Raises ValueError for what is known only when the loop begins."""
    if synced_gpus:
        raise ValueError("generate(synced_gpus=True) cannot be drafted: processes would differ in their passes")
    for name in ("past_key_values", "cache"):
        cache = model_kwargs.get(name)
        if cache is not None and cache.get_seq_length() > 0:
            raise ValueError(f"a filled cache ({name}) cannot be drafted from: {REASONS[name]}{REMEDY}")
