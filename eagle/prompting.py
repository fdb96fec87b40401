"""Messages -> the text and the ids that the target continues, by the tokenizer's chat template or one of FastChat.

Serving, measuring and training data go through here, so that a head is trained behind the very prompts it will meet.
"""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from eagle.packages import need

Message = dict[str, Any]  # {"role": "system" | "user" | "assistant" ..., "content": text}, as its template wants it

# templates refuse by TemplateError; the others come from expressions in them that do not fit the messages
REFUSALS = (TemplateError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    template: str | None = None,
    add_generation_prompt: bool = True,
    *,
    continued: bool = False,
    tools: Sequence[Any] | None = None,
    **given: Any,
) -> str:
    """Messages -> text, by the tokenizer's own chat template or a FastChat one by name, opened for the next answer.

    continued: the last message is the beginning of an answer, which stays open.
    tools: functions or their JSON schemas, for templates that know tools.
    given: variables of the tokenizer's template, such as `enable_thinking`.

    Raises ValueError when there is neither, for a name FastChat does not know, where FastChat is not installed, and
    with the template's own words where it refuses the messages.
    """
    if continued:
        _check_continued(messages)
    if template is not None:
        if continued or tools or given:
            named = "answers to continue" if continued else "tools" if tools else ", ".join(given)
            raise ValueError(f"FastChat's template '{template}' knows no {named}: use the tokenizer's own template")
        text = _render_fastchat(template, messages, add_generation_prompt)
        opening = opening_of(tokenizer)
        return text if text.startswith(opening) else opening + text
    if tokenizer.chat_template is None:
        raise ValueError("this tokenizer has no chat template: name a FastChat one, such as --template vicuna_v1.1")
    asked: dict[str, Any] = {"tools": list(tools)} if tools else {}
    if continued:
        asked["continue_final_message"] = True
    opened = add_generation_prompt and not continued
    try:  # tokenizers with a method of their own need not know what is not asked for
        return str(
            tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=opened, tokenize=False, **asked, **given
            )
        )
    except REFUSALS as error:
        raise ValueError(_refusal(error, messages)) from None


def _check_continued(messages: Sequence[Message]) -> None:
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or not last.get("content"):
        raise ValueError("there is no answer to continue: the last message must be the assistant's, and not empty")


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Rendered text -> ids; the text holds its special tokens already, so none are added.

    Raises ValueError for text that no tokenizer can read: half a character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the prompt holds half a character at place {error.start}: write it anew") from None
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def opening_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The special tokens that the tokenizer puts before every text: a beginning-of-text token, for most that have one.

    Chat templates of tokenizers write it themselves, FastChat's leave it to the tokenizer.
    """
    bare = tokenizer("x", add_special_tokens=False)["input_ids"]
    whole = tokenizer("x")["input_ids"]
    count = next((start for start in range(len(whole)) if whole[start : start + len(bare)] == bare), 0)
    return str(tokenizer.decode(whole[:count]))


def fastchat_stops(name: str) -> tuple[tuple[str, ...], frozenset[int]]:
    """Strings and ids at which an answer in a FastChat template ends. Raises ValueError as `render_prompt` does."""
    conversation = _fastchat(name)
    strings = conversation.stop_str or ()
    return ((strings,) if isinstance(strings, str) else tuple(strings)), frozenset(conversation.stop_token_ids or ())


def _fastchat(name: str) -> Any:
    try:
        return need("fastchat.conversation").get_conv_template(name)
    except KeyError:
        raise ValueError(f"FastChat has no conversation template '{name}': see fastchat.conversation") from None


def _render_fastchat(name: str, messages: Sequence[Message], add_generation_prompt: bool) -> str:
    conversation = _fastchat(name)
    for message in messages:
        if message["role"] == "system":
            conversation.set_system_message(message["content"])
        else:
            conversation.append_message(conversation.roles[message["role"] == "assistant"], message["content"])
    if add_generation_prompt:
        conversation.append_message(conversation.roles[1], None)
    try:
        return str(conversation.get_prompt())
    except REFUSALS as error:
        raise ValueError(_refusal(error, messages)) from None


def _refusal(error: Exception, messages: Sequence[Message]) -> str:
    """One line: the template's reason and, where it is the system prompt, what to do."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    remedy = ""
    if "system" in reason.lower() and any(message["role"] == "system" for message in messages):
        remedy = ": leave the system prompt out, or put its text into the first user message"
    return f"the chat template refuses the conversation ({reason}){remedy}"
