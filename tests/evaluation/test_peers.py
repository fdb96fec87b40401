"""transformers' generate beside our plain decoding: same tokens, neutral settings, counted alike."""

from typing import Any

import pytest
import torch

from eagle.decode import DecodeOptions, autoregressive
from eagle.sampling import Sampling
from evaluation.peers import counted, generate
from evaluation.recording import Seconds
from tests.tiny import random_ids, tiny_target

LENGTH = 24
SECONDS = Seconds(0.0, 1.0)


def plain_greedy(target, prompt) -> tuple[int, ...]:
    steps = autoregressive(target, prompt, DecodeOptions(max_new_tokens=LENGTH))
    return tuple(token for step in steps for token in step.tokens)


SPECULATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "compiled": {"compiled": True},
    "prompt lookup": {"prompt_lookup_tokens": 4},
    "assisted": {"assistant": True},
}


@pytest.mark.parametrize("kind", SPECULATIONS)
@pytest.mark.parametrize("end", [False, True])
def test_greedy_peers_write_what_plain_decoding_writes(kind, end):
    """With and without an end of text in the middle; the rounds and the first pass add up to the text."""
    target, prompt = tiny_target(), random_ids(12) * 2
    if end:
        target.model.generation_config.eos_token_id = plain_greedy(target, prompt)[10]
    speculation = {"assistant": tiny_target(seed=1).model} if kind == "assisted" else SPECULATIONS[kind]
    generation = generate(target, prompt, Sampling(0.0), LENGTH, seed=0, **speculation)
    assert generation.tokens == plain_greedy(target, prompt)
    generation.check(target.end_token_ids, LENGTH)
    assert generation.finish == ("stop" if end else "length")
    assert generation.seconds.prefill > 0 and generation.seconds.rest is None


def test_settings_of_the_models_own_file_do_not_leak_in():
    """A published generation_config.json often holds top_k, top_p, min_p or a repetition penalty; with top_k = 1 every
    seed would give the greedy text, with the penalty greedy text would change."""
    target, prompt = tiny_target(), random_ids(12)
    expected = plain_greedy(target, prompt)
    shaped = target.model.generation_config
    shaped.top_k, shaped.top_p, shaped.min_p, shaped.temperature, shaped.repetition_penalty = 1, 0.1, 0.9, 0.1, 5.0
    assert generate(target, prompt, Sampling(0.0), LENGTH, seed=0).tokens == expected
    texts = {generate(target, prompt, Sampling(1.0), LENGTH, seed=seed).tokens for seed in range(4)}
    assert len(texts) == 4 and expected not in texts


def test_the_seed_decides_the_text_and_the_callers_randomness_is_left_alone(target):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    texts = [generate(target, random_ids(12), Sampling(1.0), 12, seed=seed).tokens for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(before, torch.random.get_rng_state())


def test_passes_are_cut_at_the_end_and_at_the_cap():
    stopped = counted([[1], [2, 3], [4, 9, 5], [6]], frozenset({9}), 10, SECONDS)
    assert (stopped.tokens, stopped.accepted, stopped.finish) == ((1, 2, 3, 4, 9), (1, 1), "stop")
    capped = counted([[1, 2], [3, 4, 5]], frozenset({9}), 3, SECONDS)
    assert (capped.tokens, capped.num_first, capped.emitted, capped.finish) == ((1, 2, 3), 2, (1,), "length")
    for generation in (stopped, capped):
        generation.check(frozenset({9}), 10)


def test_a_model_that_transformers_cannot_compile_is_refused(monkeypatch):
    target = tiny_target()
    monkeypatch.setattr(type(target.model), "_can_compile_fullgraph", False)
    with pytest.raises(ValueError, match="cannot be compiled by transformers' generate: leave arm 'hf_compiled' out"):
        generate(target, [1, 2], Sampling(), 4, seed=0, compiled=True)
