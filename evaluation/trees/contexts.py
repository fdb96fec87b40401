"""Contexts for comparing trees: a prompt and a piece of the target's own answer, cut where a round might begin.

Answers are recorded at several temperatures, since a context that greedy decoding reaches is not one that sampling
reaches. Held-out prompts are those that `eagle-hsd prepare` keeps from training. Contexts are kept in a run's directory
only: they hold text of benchmarks and prompts, as token ids.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from eagle.data.preparation import select
from eagle.data.prepare_config import PrepareConfig
from eagle.engine.batched import Answered, AnswerLimits, BatchedDecoder, Job
from eagle.engine.target import Target
from eagle.files import JsonLines
from eagle.options import check_options, option
from eagle.prompting import encode_prompt, render_prompt
from eagle.seeds import stable_number
from evaluation.tasks import TASKS, find_task, load_questions

HELD_OUT = "held_out"
SOURCES = (HELD_OUT, *TASKS)


@dataclass(frozen=True)
class Context:
    """Where a round begins: `ids` ends with the tree's root, which the target has not read yet."""

    id: str  # source/question/temperature/cut
    source: str
    question: str
    temperature: float  # of the answer it was cut from
    ids: tuple[int, ...]

    @property
    def answer(self) -> str:
        """Which answer it was cut from: source/question/temperature."""
        return self.id.rsplit("/", 1)[0]


@dataclass(frozen=True)
class RecordConfig:
    """What to record. Raises ValueError for sources that do not exist and values outside their range."""

    output: str = option("runs/laboratory/contexts.jsonl", "holds text of the prompts: do not commit")
    sources: tuple[str, ...] = option(SOURCES, "of the prompts", choices=SOURCES)
    num_questions: int = option(16, "of every source", at_least=1)
    temperatures: tuple[float, ...] = option((0.0, 0.6, 1.0), "of the answers", at_least=0)
    num_cuts: int = option(2, "contexts of one answer", at_least=1)
    max_new_tokens: int = option(96, "of an answer", at_least=1)
    max_prompt_tokens: int = option(512, "leave longer ones out", at_least=1)
    num_lanes: int = option(16, "answers written side by side", at_least=1)
    seed: int = option(0, "of the answers")
    template: str | None = option(None, "FastChat conversation template, for a tokenizer without a chat template")

    def __post_init__(self) -> None:
        check_options(self)


def record_contexts(target: Target, config: RecordConfig) -> Iterator[Context]:
    """Append the missing contexts to `config.output` and yield them; stopped at any moment, it goes on where it was."""
    file = JsonLines(Path(config.output))
    done = {context.answer for context in read_contexts(Path(config.output))}
    jobs = [job for job in _jobs(target, config) if job.id not in done]
    limits = AnswerLimits(config.max_new_tokens, config.max_prompt_tokens + config.max_new_tokens)
    decoder = BatchedDecoder(target.model, target.end_token_ids, limits, config.num_lanes, config.num_lanes)
    for answered in decoder.answer(jobs) if jobs else ():
        contexts = _cut(answered, config, target.end_token_ids)
        file.append(*map(asdict, contexts))
        yield from contexts


def _jobs(target: Target, config: RecordConfig) -> Iterator[Job]:
    """One answer a question and temperature; its seed depends on nothing but its name."""
    for source in config.sources:
        for question, prompt in prompts(source, config.num_questions):
            ids = tuple(_encode(target, prompt, config.template))
            for temperature in config.temperatures if len(ids) <= config.max_prompt_tokens else ():
                name = f"{source}/{question}/{temperature:g}"
                yield Job(name, (ids,), temperature, stable_number(config.seed, name))


def _encode(target: Target, prompt: str, template: str | None) -> list[int]:
    if target.tokenizer is None:
        raise ValueError("contexts are recorded from text, and this target has no tokenizer")
    text = render_prompt(target.tokenizer, [{"role": "user", "content": prompt}], template)
    return encode_prompt(target.tokenizer, text)


def prompts(source: str, count: int) -> list[tuple[str, str]]:
    """The first `count` questions of a source: id and first turn."""
    if source != HELD_OUT:
        return [(q.id.replace("/", "-"), q.turns[0]) for q in load_questions(find_task(source), limit=count)]
    held_out = select(PrepareConfig(part="held_out"), Counter())[:count]
    return [(conversation.id.replace("/", "-"), conversation.user_turns[0]) for conversation in held_out]


def read_contexts(path: Path) -> list[Context]:
    """The contexts of a file; none where it does not exist. A last line cut by a kill is left out."""
    return [Context(**{**row, "ids": tuple(row["ids"])}) for row in JsonLines(path).read()]


def _cut(answered: Answered, config: RecordConfig, end_token_ids: frozenset[int]) -> list[Context]:
    """Contexts of one answer, cut at random places of it, all different, none behind the end of text."""
    source, question, temperature = answered.job.id.rsplit("/", 2)
    (start, end), *_ = answered.spans
    ends = [i for i in range(start, end) if answered.input_ids[i] not in end_token_ids]
    chosen = random.Random(answered.job.seed).sample(ends, min(config.num_cuts, len(ends)))
    return [
        Context(
            f"{answered.job.id}/{cut - start + 1}",
            source,
            question,
            float(temperature),
            tuple(answered.input_ids[: cut + 1]),
        )
        for cut in sorted(chosen)
    ]
