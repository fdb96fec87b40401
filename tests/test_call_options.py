"""What one answer may be given of its own: a seed, ends, stop strings, log-probabilities."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.engine.target import Target
from eagle.sampling import Sampling, seeded
from eagle.trees import CoupledTree, EagleTree, SampledChain, TreePolicy
from tests import tiny_text
from tests.tiny import random_ids, tiny_drafter, tokens_of

TREE = EagleTree(num_nodes=12, depth=4, top_k=3)
WARM = Sampling(1.0)


@pytest.fixture(scope="module")
def speaking() -> Target:
    return Target(tiny_text.target(), tiny_text.tokenizer())


def session(target, policy: TreePolicy = TREE) -> Session:
    return Session(target, tiny_drafter(target, policy))


@pytest.mark.parametrize("policy", [TREE, SampledChain(3), CoupledTree(12)], ids=["eagle", "chain", "coupled"])
def test_a_seed_in_the_options_is_the_answers_own(target, policy):
    """Whatever was drawn before: the second answer of a session is that of a fresh one."""
    ids, options = random_ids(15), DecodeOptions(WARM, 20, seed=7)
    used, generator = session(target, policy), seeded(1)
    before = generator.get_state()
    texts = [tokens_of(used.decode(ids, options, generator)) for _ in range(2)]
    assert texts[0] == texts[1] == tokens_of(session(target, policy).decode(ids, options))
    assert texts[0] != tokens_of(used.decode(ids, DecodeOptions(WARM, 20, seed=8)))
    assert torch.equal(generator.get_state(), before)


def test_coupled_text_of_a_seed_is_plain_decodings(target):
    ids, options = random_ids(15), DecodeOptions(WARM, 20, "coupled", seed=7)
    assert tokens_of(session(target).decode(ids, options)) == tokens_of(autoregressive(target, ids, options))


@pytest.mark.parametrize("length", [1, 3])
def test_an_answer_ends_with_the_token_that_completes_a_stop_string(speaking, length):
    """Inside an accepted path, or as its last token; nothing behind it is emitted. A byte is a token here."""
    letters = Sampling(1.0, logit_bias={token: -torch.inf for token in range(258) if not 31 < token < 95})
    ids, options = random_ids(12, vocab_size=256), DecodeOptions(letters, 40, "coupled", ignore_end=True, seed=1)
    whole = tokens_of(autoregressive(speaking, ids, options))
    stop = speaking.tokenizer.decode(whole[20 : 20 + length])
    end = next(n for n in range(41) if stop in speaking.tokenizer.decode(whole[:n]))
    for decode in (session(speaking).decode, lambda *args: autoregressive(speaking, *args)):
        steps = list(decode(ids, replace(options, stop=(stop, "never there"))))
        assert tokens_of(steps) == whole[:end] and steps[-1].finish == "stop"


def test_a_stop_string_that_is_a_special_token_ends_by_its_id(speaking):
    ids = random_ids(12, vocab_size=256)
    forced = Sampling(logit_bias={256: 1e4})
    steps = list(session(speaking).decode(ids, DecodeOptions(forced, 5, stop=("<|im_start|>",))))
    assert tokens_of(steps) == [256] and steps[-1].finish == "stop"


def test_stop_strings_need_a_tokenizer(target):
    with pytest.raises(ValueError, match=r"stop strings \('x',\) need a tokenizer"):
        next(session(target).decode(random_ids(5), DecodeOptions(stop=("x",))))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_steps_carry_the_logits_that_their_tokens_were_decided_from(target, temperature):
    """The prefill's too, (1, V): the first token's log-probability needs no second pass."""
    ids, options = random_ids(15), DecodeOptions(Sampling(temperature), 20, seed=3)
    text = list(ids)
    for number, step in enumerate(session(target).decode(ids, options)):
        logits: Any = step.logits
        assert logits.shape == (len(step.tokens), target.vocab_size)
        assert number or (step.round is None and len(logits) == 1)
        for token, row in zip(step.tokens, logits, strict=True):
            own: Any = target.read(torch.tensor([text])).logits[0, -1]
            torch.testing.assert_close(row, own, atol=1e-4, rtol=1e-4)  # float32, other shapes of the products
            text.append(token)


def test_logprobs_are_the_models_own_whatever_the_tokens_were_drawn_by(target):
    """vLLM's default: before penalties, temperature and cuts."""
    sampling = Sampling(0.5, top_k=4, repetition_penalty=1.5)
    ids, asked = random_ids(15), DecodeOptions(sampling, 12, seed=3, logprobs=4)
    for steps in (list(session(target).decode(ids, asked)), list(autoregressive(target, ids, asked))):
        for step in steps:
            assert step.logits is not None
            law = step.logits.log_softmax(-1)
            for row, token, told in zip(law, step.tokens, step.logprobs, strict=True):
                assert told.token == token and told.logprob == float(row[token])
                assert told.rank == 1 + int((row > row[token]).sum())
                assert [entry[0] for entry in told.top] == row.topk(4).indices.tolist()
                assert [entry[1] for entry in told.top] == row.topk(4).values.tolist()


def test_logprobs_are_told_only_when_asked(target):
    none, alone = (DecodeOptions(max_new_tokens=4, logprobs=number) for number in (None, 0))
    assert all(step.logprobs == () for step in session(target).decode(random_ids(9), none))
    for step in session(target).decode(random_ids(9), alone):
        assert len(step.logprobs) == len(step.tokens) and all(told.top == () for told in step.logprobs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"stop": ("",)}, "a stop string is empty"),
        ({"logprobs": -1}, "logprobs is -1, it must be a number of tokens"),
    ],
)
def test_options_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        DecodeOptions(**fields)
