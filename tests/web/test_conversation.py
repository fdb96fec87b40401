"""Conversations, visitors and turns of the one thread, without a browser."""

import threading
from dataclasses import asdict

import pytest

from eagle.chat import Chat
from eagle.decode import DecodeOptions
from eagle.web.answer_settings import AnswerSettings
from eagle.web.conversation import BUSY, Conversation
from eagle.web.decoding_thread import DecodingThread
from eagle.web.seen_round import seen_round
from eagle.web.visitors import Visitors
from tests.web.tiny_site import HOT


@pytest.fixture
def thread():
    one = DecodingThread()
    yield one
    one.close()


@pytest.fixture
def conversation(maker, thread) -> Conversation:
    return Conversation(maker, thread)


def answer(conversation: Conversation, question: str, **changes) -> str:
    for _ in conversation.answer(question, {**asdict(HOT), **changes}):
        pass
    return conversation.turns[-1].answer


def test_answers_are_those_of_a_chat(conversation, maker):
    chat = maker.make(HOT)
    for question in ("One", "Two"):
        assert answer(conversation, question) == chat.ask(question)


def test_new_settings_go_on_with_the_conversation(conversation, maker):
    answer(conversation, "One")
    said = conversation.turns[0].answer
    answer(conversation, "Two", system="Be brief.", seed=3)
    messages = conversation._chat.messages
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[0]["content"] == "Be brief." and messages[2]["content"] == said


def test_caches_that_were_let_go_change_no_answer(maker, thread):
    texts = []
    for lets_go in (False, True):
        one = Conversation(maker, thread)
        answer(one, "One")
        if lets_go:
            one.let_go()
            assert one._chat is None
        texts.append(answer(one, "Two"))
    assert texts[0] == texts[1]


def test_a_mistake_leaves_the_conversation_as_it_was(conversation):
    answer(conversation, "One")
    mistakes: list[tuple[dict, str]] = [({"verifier": "oak"}, "unknown verifier"), ({"temperature": -1.0}, "is -1.0")]
    for changes, told in mistakes:
        answer(conversation, "Two", **changes)
        assert told in conversation.turns[-1].error
    answer(conversation, "Three", verifier="hsd", tree="coupled")
    assert "does not fit this tree" in conversation.turns[-1].error
    answer(conversation, "Four")
    assert [turn.question for turn in conversation.turns] == ["One", "Four"]


def test_a_field_of_another_type_is_told(conversation):
    answer(conversation, "One", seed=None)
    assert "seed" in conversation.turns[-1].error


def test_our_own_mistakes_are_not_hidden(conversation, monkeypatch):
    def broken(settings, plain=False):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(conversation._maker, "make", broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        answer(conversation, "One")
    assert not conversation.running


def test_a_second_answer_at_once_is_refused(conversation):
    first = conversation.answer("One", asdict(HOT))
    next(first)
    with pytest.raises(ValueError, match=BUSY):
        next(conversation.answer("Two", asdict(HOT)))
    first.close()
    assert not conversation.running and answer(conversation, "Two")


def test_nothing_to_compare_is_told(conversation):
    with pytest.raises(ValueError, match="no answer to compare yet"):
        next(conversation.compare())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "the same 40 tokens"),
        ({"temperature": 0.0}, "the same 40 tokens"),
        ({"verifier": "hsd", "tree": "chain"}, "another draw of the same law"),
    ],
)
def test_plain_decoding_is_compared_by_what_the_verifier_promises(conversation, changes, told):
    answer(conversation, "One", **changes)
    for _ in conversation.compare():
        pass
    assert told in conversation.beside.verdict
    assert conversation.numbers.speedup == pytest.approx(
        conversation.numbers.stats.tokens_per_s / conversation.numbers.plain.tokens_per_s
    )


def test_rounds_in_small_numbers_are_what_the_rounds_were(maker):
    """Probabilities are those of the law after the parent, found here from the laws themselves."""
    chat, steps = maker.make(HOT), []
    for _ in chat.stream("One", on_step=steps.append):
        pass
    rounds = [step for step in steps if step.round is not None]
    assert rounds and len(rounds) == chat.stats.rounds
    for step in rounds:
        seen, tree = seen_round(step, chat.target.tokenizer), step.round.tree
        for node in range(1, tree.num_nodes):
            law = step.round.target_probs[tree.parent_list[node]]
            assert seen.probs[node] == pytest.approx(float(law[tree.token_list[node]]))
        assert seen.path == step.round.path and seen.parents == tree.parent_list
    assert seen_round(steps[0], chat.target.tokenizer) is None


def test_watching_changes_no_answer(maker):
    watched, alone = maker.make(HOT), maker.make(HOT)
    pieces = list(watched.stream("One", on_step=lambda step: None))
    assert pieces == list(alone.stream("One"))


def test_who_has_been_away_longest_makes_room(maker, thread):
    visitors = Visitors(lambda: Conversation(maker, thread), most_caches=1, most_visitors=2)
    first, second = visitors.of("a"), visitors.of("b")
    answer(first, "One")
    visitors.of("b")
    assert first._chat is None and first.turns, "its caches go, its texts stay"
    visitors.of("a")
    visitors.of("c")
    assert len(visitors) == 2 and visitors.of("a") is first and visitors.of("b") is not second
    visitors.leave("a")
    assert first.turns == [] and visitors.of("a") is not first


def test_two_answers_at_once_take_turns(thread):
    """Whoever asks next waits for one step of the other, not for all of them."""
    order: list[str] = []
    begun = threading.Barrier(2, timeout=30)

    def steps(name: str):
        for _ in range(20):
            order.append(name)
            yield name

    def consume(name: str) -> None:
        items = thread.steps(steps(name))
        next(items)
        begun.wait()
        for _ in items:
            pass

    consumers = [threading.Thread(target=consume, args=(name,)) for name in "ab"]
    for one in consumers:
        one.start()
    for one in consumers:
        one.join()
    assert sorted(order) == ["a"] * 20 + ["b"] * 20


def test_what_a_step_raises_reaches_who_asked(thread):
    def broken():
        yield 1
        raise ValueError("in mid answer")

    steps = thread.steps(broken())
    assert next(steps) == 1
    with pytest.raises(ValueError, match="in mid answer"):
        next(steps)


def test_settings_are_checked_at_once():
    with pytest.raises(ValueError, match="this page answers in at most 8192"):
        AnswerSettings(max_new_tokens=9000)
    with pytest.raises(ValueError, match="unknown tree"):
        AnswerSettings(tree="oak")
    assert isinstance(AnswerSettings().policy, type(AnswerSettings(tree="auto").policy))


def test_a_seed_of_an_answer_takes_the_place_of_the_chats(maker):
    texts = [Chat(maker.target, options=HOT.over(DecodeOptions()), seed=seed).ask("One") for seed in (1, 2)]
    assert texts[0] == texts[1]
