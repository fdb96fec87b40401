"""Which tokens end an answer: what the model was configured with, and what its chat template writes there.

A model runs on into invented turns where the two differ and only one is asked, as with a base model's configuration
beside an instruct tokenizer.
"""

from functools import lru_cache

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eagle.prompting import fastchat_stops, render_prompt
from eagle.text import special_ids, stop_ids

MARK = "answer-of-its-own"  # text that no template writes by itself


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """End-of-text ids of the generation configuration (else of the model's), of the tokenizer, and the template's."""
    ids = model.generation_config.eos_token_id if model.generation_config is not None else None
    if ids is None:
        ids = model.config.get_text_config(decoder=True).eos_token_id
    configured = [] if ids is None else [ids] if isinstance(ids, int) else ids
    return frozenset(configured) | (_of_tokenizer(tokenizer) if tokenizer is not None else frozenset())


def _of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    own = frozenset([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])
    template = tokenizer.chat_template
    return own | (_behind_answers(tokenizer, None, template) if isinstance(template, str) else frozenset())


def template_end_ids(tokenizer: PreTrainedTokenizerBase, name: str) -> frozenset[int]:
    """The same of a FastChat template that stands in for the tokenizer's own.

    Raises ValueError for a name FastChat does not know.
    """
    strings, ids = fastchat_stops(name)
    return _behind_answers(tokenizer, name, "") | stop_ids(tokenizer, strings) | ids


@lru_cache(maxsize=32)  # `own` is the template that the tokenizer had then: it can be given another one
def _behind_answers(tokenizer: PreTrainedTokenizerBase, name: str | None, own: str) -> frozenset[int]:
    """The special token that a template writes directly behind an answer; none where it writes text."""
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": MARK}]
    try:
        text = render_prompt(tokenizer, messages, name, add_generation_prompt=False)
    except ValueError:  # it wants other messages: what it writes is not found out
        return frozenset()
    _, found, behind = text.rpartition(MARK)
    ids = tokenizer(behind.lstrip(), add_special_tokens=False)["input_ids"] if found else []
    return frozenset(ids[:1]) & (special_ids(tokenizer) - {tokenizer.bos_token_id})
