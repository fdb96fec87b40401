"""What the engines are asked: six questions of each benchmark, by the target's chat template, and our texts to them."""

from pathlib import Path

from eagle.decode import DecodeOptions, autoregressive
from eagle.engine.target import Target
from eagle.files import read_json, write_json
from eagle.prompting import encode_prompt, render_prompt
from evaluation.tasks import TASKS, load_questions

A_TASK = 6


def prompts_of(target: Target, number: int = A_TASK) -> list[tuple[int, ...]]:
    """Token ids of the first `number` questions of each benchmark."""
    tokenizer = target.tokenizer
    assert tokenizer is not None, "the packaged target has one"
    asked = (question.turns[0] for task in TASKS.values() for question in load_questions(task, limit=number))
    return [tuple(encode_prompt(tokenizer, render_prompt(tokenizer, [_user(text)]))) for text in asked]


def greedy_texts(target: Target, prompts: list[tuple[int, ...]], num_tokens: int, kept: Path) -> list[tuple[int, ...]]:
    """Our own plain decoding at temperature 0, a token a pass; kept in a file, since it does not change."""
    asked = [list(prompt) for prompt in prompts]
    made_of = {"target": target.name, "dtype": str(target.dtype), "num_tokens": num_tokens, "prompts": asked}
    if kept.is_file() and (found := read_json(kept, "remove it"))["made_of"] == made_of:
        return [tuple(text) for text in found["texts"]]
    options = DecodeOptions(max_new_tokens=num_tokens)
    texts = [
        tuple(token for step in autoregressive(target, list(prompt), options) for token in step.tokens)
        for prompt in prompts
    ]
    write_json(kept, {"made_of": made_of, "texts": [list(text) for text in texts]})
    return texts


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
