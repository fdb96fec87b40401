"""Which tokens end an answer: what the model was configured with, and what its chat template writes there.

A model runs on into invented turns where the two differ and only one is asked, as with a base model's configuration
beside an instruct tokenizer.
"""

from functools import lru_cache

from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eagle.text import special_ids

MARK = "answer-of-its-own"  # text that no template writes by itself


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """End-of-text ids of the generation configuration (else of the model's), of the tokenizer, and the template's."""
    ids = model.generation_config.eos_token_id if model.generation_config is not None else None
    if ids is None:
        ids = model.config.get_text_config(decoder=True).eos_token_id
    configured = [] if ids is None else [ids] if isinstance(ids, int) else ids
    return frozenset(configured) | (_of_tokenizer(tokenizer) if tokenizer is not None else frozenset())


def _of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    template = tokenizer.chat_template
    return frozenset(own) | (_of_template(tokenizer, template) if isinstance(template, str) else frozenset())


@lru_cache(maxsize=32)
def _of_template(tokenizer: PreTrainedTokenizerBase, template: str) -> frozenset[int]:
    """The special token that the template writes directly behind an answer; none where it writes text."""
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": MARK}]
    try:
        text = str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False))
    except (TemplateError, ValueError, TypeError):  # it wants other messages: what it writes is not found out
        return frozenset()
    _, found, behind = text.rpartition(MARK)
    ids = tokenizer(behind.lstrip(), add_special_tokens=False)["input_ids"] if found else []
    return frozenset(ids[:1]) & (special_ids(tokenizer) - {tokenizer.bos_token_id})
