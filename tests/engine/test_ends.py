"""Which tokens end an answer: all that the model, the tokenizer and the template say."""

import pytest

from eagle.chat import Chat
from eagle.engine.target import Target
from tests import tiny_text
from tests.tiny import tiny_target

LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|im_start|>{{ m['content'] }}{% else %} {{ m['content'] }} "
    "<|im_end|>{% endif %}{% endfor %}"
)
PLAIN_TEXT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
PICKY = "{{ raise_exception('no') }}"


def target(template, configured, end_of_text):
    tokenizer = tiny_text.tokenizer(template)
    tokenizer.eos_token = end_of_text
    model = tiny_text.target()
    model.generation_config.eos_token_id = configured
    return Target(model, tokenizer)


@pytest.mark.parametrize(
    ("template", "configured", "end_of_text", "expected"),
    [
        (tiny_text.CHATML, 3, "<|im_start|>", {3, 256, 257}),  # a base model beside an instruct tokenizer
        (tiny_text.CHATML, [3, 4], "<|im_end|>", {3, 4, 257}),
        (LLAMA_2, 3, None, {3, 257}),
        (PLAIN_TEXT, 3, None, {3}),
        (PICKY, 3, None, {3}),
        (None, 3, None, {3}),
    ],
)
def test_the_end_of_a_turn_is_what_the_template_writes_behind_it(template, configured, end_of_text, expected):
    """Only the generation configuration was asked: an answer ran on into turns that nobody took."""
    assert target(template, configured, end_of_text).end_token_ids == expected


def test_without_a_tokenizer_the_model_is_asked():
    model = tiny_target().model
    assert Target(model).end_token_ids == set()
    model.generation_config = None
    model.config.eos_token_id = 5
    assert Target(model).end_token_ids == {5}


def test_a_fastchat_template_brings_its_own_ends():
    """Its stop strings and ids were left to the user, who met the next invented turn."""
    tokenizer = tiny_text.tokenizer(None)
    tokenizer.eos_token = None
    model = tiny_text.target()
    model.generation_config.eos_token_id = None
    target = Target(model, tokenizer)
    assert 257 not in target.end_token_ids
    assert 257 in target.end_ids_with("qwen-7b-chat")  # <|im_end|> behind an answer
    chat = Chat(target, template="qwen-7b-chat")
    assert 257 in chat.options.stop_ids and "<|endoftext|>" in chat.stop
    with pytest.raises(ValueError, match="FastChat has no conversation template 'no-such'"):
        target.end_ids_with("no-such")
