"""One call of a chat: a whole conversation, an answer to continue, tools, and options of its own."""

from dataclasses import replace

import pytest

from eagle.chat import Chat
from eagle.decode import DecodeOptions
from eagle.engine.target import Target
from eagle.prompting import render_prompt
from eagle.sampling import Sampling
from tests import tiny_text

OPTIONS = DecodeOptions(max_new_tokens=12)
WARM = DecodeOptions(Sampling(1.0), 12)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]
TOOLS = "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}{% if think %}thinks{% endif %}" + tiny_text.CHATML


@pytest.fixture(scope="module")
def target() -> Target:
    return Target(tiny_text.target(), tiny_text.tokenizer())


def text_of(chat: Chat) -> str:
    return str(chat.target.tokenizer.decode(chat.prompt_ids))


def test_a_whole_conversation_takes_the_place_of_the_history(target):
    chat = Chat(target, options=OPTIONS)
    chat.ask("Something else.")
    answer = chat.ask(TALK)
    assert text_of(chat) == render_prompt(target.tokenizer, TALK)
    assert chat.messages == [*TALK, {"role": "assistant", "content": answer}]
    assert Chat(target, options=OPTIONS).ask(TALK) == answer and TALK[-1]["content"] == "Bye"


def test_an_answer_that_was_begun_goes_on(target):
    chat = Chat(target, options=OPTIONS)
    begun = [*TALK, {"role": "assistant", "content": "Good"}]
    rest = chat.ask(begun, continued=True)
    assert text_of(chat) == render_prompt(target.tokenizer, TALK) + "Good"
    assert chat.messages == [*TALK, {"role": "assistant", "content": "Good" + rest}]


def test_without_an_answer_there_is_nothing_to_continue(target):
    chat = Chat(target, options=OPTIONS)
    for talk in (TALK, [*TALK, {"role": "assistant", "content": ""}]):
        with pytest.raises(ValueError, match="no answer to continue: the last message must be the assistant's"):
            chat.ask(talk, continued=True)
    with pytest.raises(ValueError, match="the conversation is empty"):
        chat.ask([])
    assert chat.messages == []


def weather(city: str) -> str:
    """Tells the weather.

    Args:
        city: where
    """
    return city


def test_tools_and_variables_reach_the_template():
    target = Target(tiny_text.target(), tiny_text.tokenizer(TOOLS))
    chat = Chat(target, options=OPTIONS)
    chat.ask("Hi", tools=[weather], think=True)
    assert text_of(chat).startswith("weather;thinks<|im_start|>")
    chat.ask("Hi")
    assert text_of(chat).startswith("<|im_start|>")


def test_fastchat_templates_refuse_what_they_do_not_know(target):
    chat = Chat(target, options=OPTIONS, template="vicuna_v1.1")
    with pytest.raises(ValueError, match=r"FastChat's template 'vicuna_v1.1' knows no tools"):
        chat.ask("Hi", tools=[weather])
    with pytest.raises(ValueError, match="knows no answers to continue"):
        chat.ask([*TALK, {"role": "assistant", "content": "Good"}], continued=True)


def test_a_call_has_options_of_its_own(target):
    chat = Chat(target, options=WARM)
    own = replace(WARM, seed=4, max_new_tokens=5)
    first, second = (chat.ask(TALK, own) for _ in range(2))
    assert first == second and len(chat.tokens) == 5
    assert chat.ask(TALK, replace(own, seed=5)) != first
    assert chat.options == WARM


def test_a_calls_stop_strings_end_its_text_and_its_tokens(target):
    chat = Chat(target, options=replace(OPTIONS, max_new_tokens=40))
    whole = chat.ask(TALK)
    at = next(i for i in range(3, len(whole)) if whole[i].isascii() and whole[i].isprintable())
    found = chat.ask(TALK, replace(chat.options, stop=(whole[at],)))
    assert found == whole[: whole.index(whole[at])] and chat.finish == "stop"


def test_steps_are_shown_as_they_come(target):
    steps = []
    chat = Chat(target, options=OPTIONS)
    chat.ask(TALK, replace(OPTIONS, logprobs=2), on_step=steps.append)
    assert [token for step in steps for token in step.tokens] == chat.tokens
    assert all(len(told.top) == 2 for step in steps for told in step.logprobs)
