"""Conversations under coupled decoding: equal with and without a head, and a key for every answer."""

import pytest

from eagle.chat import Chat
from eagle.decode import DecodeOptions, autoregressive
from eagle.engine.target import Target
from eagle.sampling import Sampling, seeded
from eagle.trees import EagleTree, SampledChain
from eagle.trees.coupled import CoupledTree
from tests import tiny_text
from tests.tiny import tiny_head, tokens_of

OPTIONS = DecodeOptions(Sampling(1.0, top_p=0.95), max_new_tokens=20, verifier="coupled")
POLICIES = [CoupledTree(12, 4, 3), EagleTree(12, 4, 3), SampledChain(3), None]


@pytest.fixture(scope="module")
def spoken() -> Target:
    return Target(tiny_text.target(), tiny_text.tokenizer())


def chat(target: Target, policy=POLICIES[0], seed: int = 7, plain: bool = False) -> Chat:
    return Chat(target, None if plain else tiny_head(target), policy, OPTIONS, seed=seed)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_conversation_is_that_of_plain_decoding(spoken, policy):
    """Two turns, a reset and a third, all with the keys that plain decoding takes from the same seed."""
    drafting, plain = chat(spoken, policy), chat(spoken, plain=True)
    for message in ("Hello", "Again", None, "Hello"):
        for one in (drafting, plain):
            one.ask(message) if message else one.reset()
        assert drafting.messages == plain.messages and drafting.tokens == plain.tokens
    assert drafting.tokens and drafting.prompt_ids == plain.prompt_ids


def test_keys_are_the_next_numbers_of_the_seed(spoken):
    generator, one = seeded(7), chat(spoken)
    for message in ("Hello", "Again"):
        one.ask(message)
        assert one.tokens == tokens_of(autoregressive(spoken, one.prompt_ids, OPTIONS, generator))


def test_a_conversation_begun_anew_gets_a_key_of_its_own(spoken):
    """With the old one, every answer to a question would be the same."""
    one, texts = chat(spoken), set()
    for _ in range(4):
        one.reset()
        one.ask("Hello")
        texts.add(tuple(one.tokens))
    assert len(texts) == 4


@pytest.mark.parametrize("num_pieces", [1, 2, 5])
def test_where_an_answer_is_stopped_does_not_change_the_next_one(spoken, num_pieces):
    def second_after(stopped: bool) -> list[int]:
        one = chat(spoken, SampledChain(3))  # whose draws must not come from the numbers of keys
        pieces = one.stream("Hello")
        for _ in range(num_pieces if stopped else 1000):
            if next(pieces, None) is None:
                break
        pieces.close()
        one.reset()
        one.ask("Hello")
        return one.tokens

    assert second_after(stopped=True) == second_after(stopped=False)


def test_an_answer_that_was_refused_or_never_asked_for_takes_no_key(spoken):
    one, other = chat(spoken), chat(spoken)
    one.stream("never read")
    with pytest.raises(ValueError, match="context"):
        one.ask("x" * 600)
    assert one.ask("Hello") == other.ask("Hello")


@pytest.mark.parametrize("verifier", ["coupled", "hsd"])
def test_warming_up_changes_no_answer(spoken, verifier):
    """The demo's warm-up was an answer of the drafting chat: its question had another key than plain decoding's."""
    options = DecodeOptions(Sampling(1.0), max_new_tokens=20, verifier=verifier)
    warm, cold = (Chat(spoken, tiny_head(spoken), EagleTree(8, 3, 3), options, seed=3) for _ in range(2))
    warm.warm_up()
    assert warm.messages == [] and warm.ask("Hello") == cold.ask("Hello")
