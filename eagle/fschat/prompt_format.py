"""The FastChat template by which clients render prompts: the model's own, or answers are worse for no reason.

FastChat chooses one by the model's name and falls back to one that no model was trained on. Here the templates are
tried, and the one that renders what the tokenizer's own renders is taken.
"""

from typing import Any

from transformers import PreTrainedTokenizerBase

from eagle.packages import need
from eagle.prompting import Message, opening_of, render_prompt

MARK = "@@system@@"
TALK: list[Message] = [
    {"role": "system", "content": MARK},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]


def conversation_for(tokenizer: PreTrainedTokenizerBase, template: str | None, system: str | None = None) -> Any:
    """FastChat's Conversation, with the system message that the tokenizer's template has of its own, or `system`.

    Raises ValueError for a template that FastChat does not have, and where none of its templates renders what the
    tokenizer's does.
    """
    fastchat = need("fastchat.conversation")
    name = template or _equal_template(tokenizer, sorted(fastchat.conv_templates))
    if name not in fastchat.conv_templates:
        raise ValueError(f"FastChat has no conversation template '{name}': see fastchat.conversation")
    conversation = fastchat.get_conv_template(name)
    own = own_system(tokenizer) if template is None else None
    if system is not None or own is not None:
        conversation.set_system_message(system if system is not None else own)
    return conversation


def _equal_template(tokenizer: PreTrainedTokenizerBase, names: list[str]) -> str:
    own = render_prompt(tokenizer, TALK)
    for name in names:
        try:
            if render_prompt(tokenizer, TALK, name) == own:
                return name
        except ValueError:  # templates for images or of other roles refuse
            continue
    raise ValueError(
        "none of FastChat's templates renders this model's prompts: name the nearest one, such as --template chatml"
    )


def own_system(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The system message that the tokenizer's template writes where none is given; None for none."""
    if tokenizer.chat_template is None:
        return None
    before, _, after = render_prompt(tokenizer, [TALK[0], TALK[1]]).partition(MARK)
    without = render_prompt(tokenizer, [TALK[1]])
    is_wrapped = without.startswith(before) and without.endswith(after) and len(without) >= len(before) + len(after)
    return without[len(before) : len(without) - len(after)] if is_wrapped else None


def opened(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """A prompt of FastChat's behind the tokens that the tokenizer puts before every text."""
    opening = opening_of(tokenizer)
    return prompt if prompt.startswith(opening) else opening + prompt
