"""How a model wants to be decoded: its generation_config as options, honoured or refused by name.

Only what the file says counts: transformers' own defaults for what it leaves out (top-k 50) are no wish of the model.
"""

from typing import Any

from transformers import GenerationConfig, NoRepeatNGramLogitsProcessor, SuppressTokensLogitsProcessor

from eagle.decode import DecodeOptions
from eagle.sampling import Sampling
from eagle.shaping import Processor

# what says nothing about which tokens follow, and lengths, which are the caller's (`max_length` counts the prompt)
SILENT = {
    *("eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version"),
    *("use_cache", "cache_implementation", "cache_config", "return_dict_in_generate", "low_memory", "max_length"),
    *("output_scores", "output_logits", "output_attentions", "output_hidden_states", "renormalize_logits"),
    *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight"),
    *("compile_config", "disable_compile", "prefill_chunk_size", "max_cache_len", "continuous_batching_config"),
    *("early_stopping", "length_penalty", "use_mtp", "speculation_type", "max_matching_ngram_size"),
    *("prompt_lookup_num_tokens", "trust_remote_code"),
}
DRAWING = ("temperature", "top_k", "top_p", "min_p")
OFF: dict[str, tuple[Any, ...]] = {"num_beams": (1,), "num_return_sequences": (1,), "typical_p": (1,), "top_h": (1,)}
OFF |= {"num_beam_groups": (1,), "encoder_repetition_penalty": (1,), "guidance_scale": (1,)}


def model_options(config: GenerationConfig | None, name: str = "the model") -> DecodeOptions:
    """Options as a model's generation_config has them; those of `DecodeOptions` where it is silent.

    Raises ValueError for what is not computed here, with its name and value.
    """
    told = {} if config is None else _said(config)
    if not told.pop("do_sample", False):
        told = {key: value for key, value in told.items() if key not in DRAWING} | {"temperature": 0.0}
    names = ("max_new_tokens", "stop_strings")
    cap, stop = (told.pop(key, None) for key in names)
    try:
        sampling = _sampling(told)
    except ValueError as error:
        raise ValueError(f"the generation_config of {name} cannot be honoured: {error}") from None
    if told:
        field, value = next(iter(told.items()))
        raise ValueError(
            f"the generation_config of {name} has {field} = {value!r}, which is not computed here: give options of "
            "your own, DecodeOptions(Sampling(..)) or --generation-config none"
        )
    options = {} if cap is None else {"max_new_tokens": cap}
    return DecodeOptions(sampling, stop=(stop,) if isinstance(stop, str) else stop or (), **options)


def _said(config: GenerationConfig) -> dict[str, Any]:
    """What the file says and what is not switched off by its own value."""
    said = config.to_diff_dict().items()
    return {key: value for key, value in said if key not in SILENT and key[0] != "_" and not _is_off(key, value)}


def _is_off(key: str, value: Any) -> bool:
    """Whether a value is one that changes nothing. Temperature 0 and the like of fields that are read are not."""
    if key in (*DRAWING, "repetition_penalty"):
        return value is None
    return not value or value in OFF.get(key, ())


def _sampling(told: dict[str, Any]) -> Sampling:
    """Takes out of `told` what a sampling computes."""
    processors: list[Processor] = []
    if size := told.pop("no_repeat_ngram_size", None):
        processors.append(NoRepeatNGramLogitsProcessor(size))
    if tokens := told.pop("suppress_tokens", None):
        processors.append(SuppressTokensLogitsProcessor(tokens))
    fields = {key: told.pop(key) for key in (*DRAWING, "repetition_penalty") if key in told}
    fields.setdefault("temperature", 1.0)  # of do_sample alone
    return Sampling(**fields, bad_words=told.pop("bad_words_ids", ()), processors=tuple(processors))
