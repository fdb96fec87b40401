"""Prompts: beginning-of-text tokens exactly once, and templates that refuse say so in one line."""

import pytest
from tokenizers import processors

from eagle.prompting import encode_prompt, opening_of, render_prompt
from tests import tiny_text

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)


def opened_tokenizer(template: str = tiny_text.CHATML):
    """A tokenizer that puts <|im_start|> before every text by itself, as Llama's do with their <s>."""
    tokenizer = tiny_text.tokenizer(template)
    start = ("<|im_start|>", 256)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", pair="<|im_start|> $A $B", special_tokens=[start]
    )
    tokenizer.bos_token = start[0]
    return tokenizer


@pytest.mark.parametrize("template", ["vicuna_v1.1", "llama-2", "one_shot", "mistral", "zero_shot"])
def test_fastchats_prompts_begin_with_the_beginning_of_text_once(template):
    """The text of FastChat leaves it to the tokenizer, which was told to add nothing: heads and targets met prompts
    that no one had trained them on."""
    tokenizer = opened_tokenizer()
    assert opening_of(tokenizer) == "<|im_start|>"
    ids = encode_prompt(tokenizer, render_prompt(tokenizer, MESSAGES, template))
    assert ids[0] == 256 and ids[1:].count(256) == 0
    assert ids == tokenizer(render_prompt(tiny_text.tokenizer(), MESSAGES, template))["input_ids"]


def test_a_template_that_writes_it_itself_gets_no_second_one():
    tokenizer = opened_tokenizer()
    ids = encode_prompt(tokenizer, render_prompt(tokenizer, MESSAGES, "qwen-7b-chat"))  # opens with <|im_start|>
    assert ids[:2].count(256) == 1


def test_tokenizers_that_add_nothing_get_nothing():
    assert opening_of(tiny_text.tokenizer()) == ""
    assert render_prompt(tiny_text.tokenizer(), MESSAGES, "vicuna_v1.1").startswith("Be brief. USER")


def test_a_tokenizers_own_template_is_rendered_as_transformers_does():
    tokenizer = opened_tokenizer()
    ids = encode_prompt(tokenizer, render_prompt(tokenizer, MESSAGES))
    assert ids == tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)


def test_a_refused_system_prompt_names_the_way_out():
    with pytest.raises(
        ValueError, match=r"\(System role not supported\): leave the system prompt out, or put its text"
    ):
        render_prompt(tiny_text.tokenizer(GEMMA), MESSAGES)
    assert render_prompt(tiny_text.tokenizer(GEMMA), MESSAGES[1:]).endswith("<|im_start|>model\n")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (GEMMA, "roles must alternate"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ messages.nothing.more }}", "has no attribute"),
        ("{{ 1 + messages[0]['content'] }}", "unsupported operand"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ raise_exception('one\nand two') }}", "one and two"),
    ],
)
def test_any_refusal_is_one_line(template, reason):
    """Alternating roles, a broken template: a traceback of forty lines out of the template engine."""
    messages = [{"role": "user", "content": "Hi"}] * 2
    with pytest.raises(ValueError, match=f"the chat template refuses the conversation .*{reason}") as caught:
        render_prompt(tiny_text.tokenizer(template), messages)
    assert "\n" not in str(caught.value)


def test_half_a_character_is_refused_in_one_line():
    with pytest.raises(ValueError, match="half a character at place 1"):
        encode_prompt(tiny_text.tokenizer(), "a\ud800")
