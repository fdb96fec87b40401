"""`generate` of an accelerated model against transformers' own: the same tokens, the same arguments, or a reason."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessorList,
    NoBadWordsLogitsProcessor,
    StoppingCriteriaList,
    TextStreamer,
    WatermarkingConfig,
    pipeline,
)

from eagle.drafters.eagle3 import EagleDrafter
from eagle.engine.target import Target
from eagle.hf import accelerate, release
from eagle.hf.accelerated import is_accelerated
from eagle.loading import load_head
from eagle.trees import EagleTree
from tests import tiny_text
from tests.tiny import tiny_head

TREE = EagleTree(num_nodes=24, depth=4, top_k=6)
PROMPTS = ["The capital of France is", "Once"]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "repetition penalty": {"repetition_penalty": 1.3},
    "no repeated n-grams": {"no_repeat_ngram_size": 2},
    "bad words": {"bad_words_ids": [[100], [101, 102], [32]]},
    "least length": {"min_new_tokens": 12},
    "suppressed": {"suppress_tokens": [32, 101, 110], "begin_suppress_tokens": [97]},
    "forced end": {"forced_eos_token_id": 65},
    "bias": {"sequence_bias": [[[32], -4.0], [[101, 98], 3.0]]},
    "several ends": {"eos_token_id": [10, 46, 98, 151]},
    "maximal length": {"max_length": 40, "max_new_tokens": None},
    "decaying length": {"exponential_decay_length_penalty": (4, 1.5), "eos_token_id": 98},
    "all at once": {
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 5,
        "suppress_tokens": [120],
    },
}


@pytest.fixture(scope="module")
def tokenizer():
    fast = tiny_text.tokenizer()
    fast.pad_token, fast.padding_side = "<|im_start|>", "left"
    return fast


@pytest.fixture(scope="module")
def plain():
    model = tiny_text.target()
    model.generation_config.pad_token_id = 256
    return model


@pytest.fixture(scope="module")
def drafted(plain, tokenizer):
    model = deepcopy(plain)
    return accelerate(model, tiny_head(Target(model), draft_vocab_size=150), tokenizer, TREE)


def inputs_of(tokenizer, prompts=PROMPTS) -> dict[str, torch.Tensor]:
    return dict(tokenizer(list(prompts), return_tensors="pt", padding=True))


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["one", "batch"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_greedy_tokens_are_transformers_own(plain, drafted, tokenizer, setting, prompts):
    given = {"max_new_tokens": 20, "do_sample": False, **inputs_of(tokenizer, prompts), **SETTINGS[setting]}
    assert torch.equal(drafted.generate(**given), plain.generate(**given))


def test_stop_strings_and_criteria_end_an_answer(plain, drafted, tokenizer):
    inputs = inputs_of(tokenizer, PROMPTS[:1])
    whole = plain.generate(**inputs, max_new_tokens=20)[0]
    stop = tokenizer.decode(next(token for token in whole[30:] if 32 < token < 91))
    for told in ({"tokenizer": tokenizer}, {}):  # the second: the one of accelerate
        found = drafted.generate(**inputs, max_new_tokens=20, stop_strings=[stop], **told)
        assert torch.equal(found, plain.generate(**inputs, max_new_tokens=20, stop_strings=[stop], tokenizer=tokenizer))
        assert found.shape[1] < len(whole)
    criteria = StoppingCriteriaList([EosTokenCriteria(int(whole[-6]))])
    found = drafted.generate(**inputs, max_new_tokens=20, stopping_criteria=criteria)
    assert torch.equal(found, plain.generate(**inputs, max_new_tokens=20, stopping_criteria=criteria))


def test_scores_and_logits_are_handed_out(plain, drafted, tokenizer):
    """Within rounding of float32: a pass over a tree multiplies matrices of another shape."""
    asked = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "repetition_penalty": 1.3}
    given = {**inputs_of(tokenizer, PROMPTS[:1]), "max_new_tokens": 12, **asked}
    found, expected = drafted.generate(**given), plain.generate(**given)
    assert torch.equal(found.sequences, expected.sequences)
    for name in ("scores", "logits"):
        assert len(found[name]) == len(expected[name])
        for ours, theirs in zip(found[name], expected[name], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    batch = drafted.generate(**{**given, **inputs_of(tokenizer)})
    assert all(score.shape == (2, 258) for score in batch.scores)


def test_it_drafts(drafted, tokenizer, monkeypatch):
    """Fewer rounds than tokens, and the head was asked."""
    asked = []
    proposing = EagleDrafter.proposing
    monkeypatch.setattr(EagleDrafter, "proposing", lambda *args: asked.append(1) or proposing(*args))
    found = drafted.generate(**inputs_of(tokenizer, PROMPTS[:1]), max_new_tokens=40)
    assert 0 < len(asked) < found.shape[1]


@pytest.mark.parametrize("fields", [{"temperature": 0.8}, {"top_k": 5, "top_p": 0.9, "min_p": 0.05}])
def test_samples_follow_the_seed_and_the_law(plain, drafted, tokenizer, fields):
    """Under the answer's noise a sample is that of the same loop without a head, and of the processors' law."""
    given = {**inputs_of(tokenizer, PROMPTS[:1]), "do_sample": True, "max_new_tokens": 15, **fields}
    undrafted = accelerate(deepcopy(plain), None)

    def sample(model, seed):
        torch.manual_seed(seed)
        return model.generate(**given, num_return_sequences=3)

    assert torch.equal(sample(drafted, 3), sample(drafted, 3))
    assert torch.equal(sample(drafted, 3), sample(undrafted, 3))
    assert not torch.equal(sample(drafted, 3), sample(drafted, 4))
    assert len({tuple(row.tolist()) for row in sample(drafted, 3)}) == 3


def test_the_first_sampled_token_has_the_law_of_transformers(plain, drafted, tokenizer):
    """400 draws, chi-square of the six tokens that top-k leaves; a right build is blamed once in a million."""
    inputs = inputs_of(tokenizer, PROMPTS[:1])
    scores = plain(**inputs).logits[0, -1].detach() / 0.7
    best = scores.topk(6)
    law = best.values.softmax(-1)
    torch.manual_seed(0)
    found = drafted.generate(
        **inputs, do_sample=True, temperature=0.7, top_k=6, max_new_tokens=1, num_return_sequences=400
    )[:, -1]
    counts = torch.tensor([int((found == token).sum()) for token in best.indices])
    assert counts.sum() == 400
    assert float(((counts - 400 * law) ** 2 / (400 * law)).sum()) < 40  # 5 degrees of freedom: 1.5e-7


class Told(TextStreamer):
    def __init__(self):
        self.put_ids: list[list[int]] = []
        self.ended = False

    def put(self, value):
        self.put_ids.append(value.flatten().tolist())

    def end(self):
        self.ended = True


def test_a_streamer_is_told_token_by_token(plain, drafted, tokenizer):
    inputs, ours, theirs = inputs_of(tokenizer, PROMPTS[:1]), Told(), Told()
    drafted.generate(**inputs, max_new_tokens=9, streamer=ours)
    plain.generate(**inputs, max_new_tokens=9, streamer=theirs)
    assert ours.put_ids == theirs.put_ids and ours.ended
    with pytest.raises(ValueError, match="a streamer tells one sequence"):
        drafted.generate(**inputs_of(tokenizer), max_new_tokens=9, streamer=Told())


def test_a_pipeline_drafts(plain, drafted, tokenizer):
    texts = []
    for model in (drafted, plain):
        pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
        texts.append(pipe(PROMPTS, max_new_tokens=8, do_sample=False, batch_size=2))
    assert texts[0] == texts[1]


def test_own_processors_and_configurations_are_taken(plain, drafted, tokenizer):
    inputs = inputs_of(tokenizer, PROMPTS[:1])
    config = GenerationConfig(max_new_tokens=10, repetition_penalty=1.4, pad_token_id=256)
    processors = LogitsProcessorList([NoBadWordsLogitsProcessor([[32], [101]])])
    given = {"generation_config": config, "logits_processor": processors}
    assert torch.equal(drafted.generate(**inputs, **given), plain.generate(**inputs, **given))
    batch = inputs_of(tokenizer)
    allowed = {"prefix_allowed_tokens_fn": lambda row, ids: [98 + row, 99, 100 + len(ids) % 5], "max_new_tokens": 10}
    assert torch.equal(drafted.generate(**batch, **allowed), plain.generate(**batch, **allowed))
    marked = {"watermarking_config": WatermarkingConfig(), "max_new_tokens": 10}
    assert torch.equal(drafted.generate(**inputs, **marked), plain.generate(**inputs, **marked))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "beams": ({"num_beams": 3}, r"'beam_search' \(num_beams\) cannot be drafted"),
    "beam sampling": ({"num_beams": 3, "do_sample": True}, "'beam_sample'"),
    "contrastive": ({"penalty_alpha": 0.6, "top_k": 4}, "'contrastive_search'"),
    "constraints": ({"force_words_ids": [[5]], "num_beams": 2}, "'constrained_beam_search'"),
    "dola": ({"dola_layers": "high"}, "'dola_generation'"),
    "lookup": ({"prompt_lookup_num_tokens": 3}, "'assisted_generation'"),
    "guidance": ({"guidance_scale": 1.5}, "guidance_scale cannot be drafted: guidance needs a second run"),
    "attentions": ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions cannot be handed"),
    "states": (
        {"output_hidden_states": True, "return_dict_in_generate": True},
        "output_hidden_states cannot be handed",
    ),
    "quantized cache": ({"cache_implementation": "quantized"}, "cache_implementation 'quantized'"),
    "embeddings": ({"inputs_embeds": torch.zeros(1, 2, 48)}, r"inputs_embeds=.*reads token ids"),
    "cache": ({"past_key_values": DynamicCache()}, r"past_key_values=.*give the whole text"),
    "positions": ({"position_ids": torch.zeros(1, 2)}, "position_ids="),
    "another loop": ({"custom_generate": "some/repo"}, "custom_generate=.*takes the place of the loop"),
    "images": ({"pixel_values": torch.zeros(1)}, "pixel_values=.*passed to the model"),
    "ranks": ({"synced_gpus": True}, "synced_gpus=True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_with_the_reason(drafted, tokenizer, name):
    fields, message = REFUSED[name]
    given = {**inputs_of(tokenizer, PROMPTS[:1]), "max_new_tokens": 4} | fields
    with pytest.raises(ValueError, match=message):
        drafted.generate(**given)


def test_an_assistant_is_refused(drafted, plain, tokenizer):
    with pytest.raises(ValueError, match=r"assistant_model=.*the head drafts here"):
        drafted.generate(**inputs_of(tokenizer, PROMPTS[:1]), assistant_model=plain)


def test_padding_elsewhere_is_refused(drafted):
    ids, mask = torch.tensor([[5, 6, 7], [5, 6, 256]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    with pytest.raises(ValueError, match=r"row 1 is masked elsewhere than on the left: set tokenizer\.padding_side"):
        drafted.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3)


def test_a_model_is_accelerated_once_and_can_be_released(plain, tokenizer, tmp_path):
    model = deepcopy(plain)
    own = type(model)
    accelerate(model, None)
    assert is_accelerated(model) and isinstance(model, own) and type(model).__name__ == own.__name__
    with pytest.raises(ValueError, match="drafts already: call release"):
        accelerate(model, None)
    model.save_pretrained(tmp_path)
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is own
    assert type(release(model)) is own and not is_accelerated(model)
    assert torch.equal(
        model.generate(**inputs_of(tokenizer), max_new_tokens=4),
        plain.generate(**inputs_of(tokenizer), max_new_tokens=4),
    )


SMALL = {  # of the real model; ids of SmolLM2
    **{name: SETTINGS[name] for name in ("plain", "repetition penalty", "no repeated n-grams", "least length")},
    "bad words": {"bad_words_ids": [[284], [253, 2927]]},
    "suppressed": {"suppress_tokens": [30, 28]},
    "bias": {"sequence_bias": [[[30], -4.0]]},
    "forced end": {"forced_eos_token_id": 2},
    "several ends": {"eos_token_id": [2, 28]},
    "maximal length": {"max_length": 30, "max_new_tokens": None},
    "stop strings": {"stop_strings": ["\n", ". "]},
    "all at once": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_new_tokens": 5},
}


@pytest.fixture(scope="module")
def pair(smollm2):
    """The real model twice, one of them with its head."""
    plain = deepcopy(smollm2.model)
    model = deepcopy(smollm2.model)
    head = load_head(target=Target(model, smollm2.tokenizer, name=smollm2.name))
    return plain, accelerate(model, head, smollm2.tokenizer, TREE)


@pytest.mark.parametrize("setting", SMALL)
def test_greedy_tokens_of_the_real_model_are_transformers_own(pair, smollm2, setting):
    plain, drafted = pair
    tokenizer = deepcopy(smollm2.tokenizer)
    tokenizer.padding_side = "left"
    given = {"max_new_tokens": 16, "do_sample": False, "tokenizer": tokenizer, **inputs_of(tokenizer), **SMALL[setting]}
    assert torch.equal(drafted.generate(**given), plain.generate(**given))
