"""A model's own generation_config: honoured, or refused by name."""

import pytest
from transformers import GenerationConfig

from eagle.chat import Chat
from eagle.decode import DecodeOptions
from eagle.engine.target import Target
from eagle.model_defaults import model_options
from eagle.sampling import Sampling
from tests import tiny_text

PUBLISHED: dict[str, tuple[dict, Sampling]] = {  # as Qwen2.5, Llama 3.1, Llama 2 and SmolLM2 come
    "qwen": (
        {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
        Sampling(0.7, 20, 0.8, repetition_penalty=1.05),
    ),
    "llama": ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, Sampling(0.6, top_p=0.9)),
    "greedy": ({"temperature": 0.6, "top_p": 0.9, "max_length": 4096}, Sampling()),
    "silent": ({"eos_token_id": [2, 5], "pad_token_id": 2, "use_cache": True}, Sampling()),
    "sample": ({"do_sample": True}, Sampling(1.0)),
    "min-p": ({"do_sample": True, "temperature": 1.5, "min_p": 0.1}, Sampling(1.5, min_p=0.1)),
    "neutral": ({"typical_p": 1.0, "num_beams": 1, "epsilon_cutoff": 0.0, "no_repeat_ngram_size": 0}, Sampling()),
    "words": ({"bad_words_ids": [[3], [4, 5]]}, Sampling(bad_words=[[3], [4, 5]])),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_model_says_is_how_it_is_decoded(name):
    fields, sampling = PUBLISHED[name]
    assert model_options(GenerationConfig(**fields)) == DecodeOptions(sampling)


def test_caps_stop_strings_and_ngrams_are_honoured():
    config = GenerationConfig(max_new_tokens=9, stop_strings=["END"], no_repeat_ngram_size=3, suppress_tokens=[4])
    options = model_options(config)
    assert (options.max_new_tokens, options.stop) == (9, ("END",))
    assert [type(one).__name__[:8] for one in options.sampling.processors] == ["NoRepeat", "Suppress"]
    assert model_options(None) == DecodeOptions()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_beams": 4}, "the generation_config of big has num_beams = 4, which is not computed here"),
        ({"do_sample": True, "typical_p": 0.9}, "has typical_p = 0.9"),
        ({"guidance_scale": 1.5}, "has guidance_scale = 1.5"),
        ({"min_new_tokens": 5}, "has min_new_tokens = 5"),
        ({"forced_eos_token_id": 2}, "has forced_eos_token_id = 2"),
        ({"do_sample": True, "top_p": 1.5}, "of big cannot be honoured: top_p is 1.5"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(fields, message):
    config = GenerationConfig()
    for name, value in fields.items():  # its own check refuses some of them
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message):
        model_options(config, "big")


def test_a_chat_without_options_asks_the_model():
    model = tiny_text.target()
    model.generation_config.do_sample, model.generation_config.temperature = True, 0.6
    target = Target(model, tiny_text.tokenizer())
    assert Chat(target).options.sampling == Sampling(0.6)
    assert Chat(target, options=DecodeOptions()).options.sampling == Sampling()  # said by the caller, every field
    model.generation_config.num_beams = 3
    with pytest.raises(ValueError, match="num_beams = 3"):
        Chat(target)
