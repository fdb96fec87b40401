"""Contexts are recorded behind the prompts that serving sends."""

import pytest

from eagle.engine.target import Target
from eagle.prompting import encode_prompt, render_prompt
from evaluation.trees.contexts import RecordConfig, prompts, record_contexts
from tests import tiny_text


def test_a_tokenizer_without_a_template_takes_one_by_name(tmp_path):
    target = Target(tiny_text.target(), tiny_text.tokenizer(None))
    config = RecordConfig(
        output=str(tmp_path / "contexts.jsonl"),
        sources=("gsm8k",),
        num_questions=1,
        temperatures=(0.0,),
        max_new_tokens=4,
        num_lanes=1,
        template="vicuna_v1.1",
    )
    contexts = list(record_contexts(target, config))
    ((_, question),) = prompts("gsm8k", 1)
    text = render_prompt(target.tokenizer, [{"role": "user", "content": question}], "vicuna_v1.1")
    prompt = tuple(encode_prompt(target.tokenizer, text))
    assert contexts and all(context.ids[: len(prompt)] == prompt for context in contexts)
    with pytest.raises(ValueError, match="no chat template: name a FastChat one, such as --template"):
        list(record_contexts(target, RecordConfig(output=str(tmp_path / "other.jsonl"), sources=("gsm8k",))))
