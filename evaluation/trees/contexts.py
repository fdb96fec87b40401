"""Contexts for comparing trees: a prompt and a piece of the target's own answer, cut where a round might begin.

Answers are recorded at several temperatures, since a context that greedy decoding reaches is not one that sampling
reaches. Held-out prompts are those that `eagle-hsd prepare` keeps from training. Contexts are kept in a run's directory
only: they hold text of benchmarks and prompts, as token ids.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eagle.data.preparation import select
from eagle.data.prepare_config import PrepareConfig
from eagle.engine.batched import Answered, AnswerLimits, BatchedDecoder, Job
from eagle.engine.target import Target
from eagle.files import JsonLines, claim
from eagle.options import check_options, identity, option
from eagle.prompting import encode_prompt, render_prompt
from eagle.seeds import stable_number
from evaluation.arms import weights_digest
from evaluation.rows import read_as
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

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be a context: files of other kinds are told here."""
        if not isinstance(self.id, str) or not isinstance(self.temperature, int | float):
            raise ValueError(f"context {self.id!r} at temperature {self.temperature!r} is none")
        if len(self.ids) < 2 or not all(type(token) is int and token >= 0 for token in self.ids):
            raise ValueError(f"context '{self.id}' needs at least two token ids, whole numbers from 0")

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits: measurements belong to these ids, whatever their name."""
        return hashlib.sha256(repr(self.ids).encode()).hexdigest()[:12]

    @property
    def answer(self) -> str:
        """Which answer it was cut from: source/question/temperature."""
        return self.id.rsplit("/", 1)[0]


@dataclass(frozen=True)
class RecordConfig:
    """What to record. Raises ValueError for sources that do not exist and values outside their range."""

    output: str = option("runs/laboratory/contexts.jsonl", "holds text of the prompts: do not commit", may_change=True)
    sources: tuple[str, ...] = option(SOURCES, "of the prompts", choices=SOURCES, each_once=True, may_change=True)
    num_questions: int = option(16, "of every source", at_least=1, may_change=True)
    temperatures: tuple[float, ...] = option(
        (0.0, 0.6, 1.0), "of the answers", at_least=0, at_most=100, each_once=True, may_change=True
    )
    num_cuts: int = option(2, "contexts of one answer", at_least=1, at_most=1000)
    max_new_tokens: int = option(96, "of an answer", at_least=1, at_most=1 << 20)
    max_prompt_tokens: int = option(512, "leave longer ones out", at_least=1, at_most=1 << 20, may_change=True)
    num_lanes: int = option(16, "answers written side by side", at_least=1, at_most=1024, may_change=True)
    seed: int = option(0, "of the answers")
    template: str | None = option(None, "FastChat conversation template, for a tokenizer without a chat template")

    def __post_init__(self) -> None:
        check_options(self)


def record_contexts(target: Target, config: RecordConfig) -> Iterator[Context]:
    """Append the missing contexts to `config.output` and yield them; stopped at any moment, it goes on where it was.

    Raises ValueError where the file holds contexts of another target or cut otherwise.
    """
    file = JsonLines(Path(config.output))
    made_with = {**identity(config), "target_weights": weights_digest(target.model)}
    claim(_made_with(file.path), made_with, "choose another --output")
    done = {context.answer for context in _drop_torn_answer(file, config.num_cuts)}
    jobs = [job for job in _jobs(target, config) if job.id not in done]
    limits = AnswerLimits(config.max_new_tokens, config.max_prompt_tokens + config.max_new_tokens)
    decoder = BatchedDecoder(
        target.model, target.end_ids_with(config.template), limits, config.num_lanes, config.num_lanes
    )
    for answered in decoder.answer(jobs) if jobs else ():
        contexts = _cut(answered, config, target.end_ids_with(config.template))
        file.append(*map(asdict, contexts))
        yield from contexts


def _jobs(target: Target, config: RecordConfig) -> Iterator[Job]:
    """One answer a question and temperature; its seed depends on nothing but its name."""
    for source in config.sources:
        for question, prompt in prompts(source, config.num_questions):
            ids = tuple(encode_question(target, prompt, config.template))
            for temperature in config.temperatures if len(ids) <= config.max_prompt_tokens else ():
                name = f"{source}/{question}/{temperature:g}"
                yield Job(name, (ids,), temperature, stable_number(config.seed, name))


def encode_question(target: Target, prompt: str, template: str | None = None) -> list[int]:
    """A first turn as the target reads it. Raises ValueError for a target without a tokenizer."""
    if target.tokenizer is None:
        raise ValueError("prompts are text, and this target has no tokenizer")
    text = render_prompt(target.tokenizer, [{"role": "user", "content": prompt}], template)
    return encode_prompt(target.tokenizer, text)


def prompts(source: str, count: int) -> list[tuple[str, str]]:
    """The first `count` questions of a source: id and first turn."""
    if source != HELD_OUT:
        return [(q.id.replace("/", "-"), q.turns[0]) for q in load_questions(find_task(source), limit=count)]
    held_out = select(PrepareConfig(part="held_out"), Counter())[:count]
    return [(conversation.id.replace("/", "-"), conversation.user_turns[0]) for conversation in held_out]


def read_contexts(path: Path) -> list[Context]:
    """The contexts of a file; none where it does not exist. A last line cut by a kill is left out.

    Raises ValueError that names the line where the file is damaged.
    """
    return list(read_as(JsonLines(path), _from_json))


def refuse_other_files(path: Path) -> None:
    """Raises ValueError or OSError for what is there and holds no contexts: it would be taken for a cut line."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: name a file with --output")
    if path.is_file() and path.stat().st_size and not read_contexts(path) and not _made_with(path).is_file():
        raise ValueError(f"{path} is there and holds no contexts: choose another --output")


def _made_with(path: Path) -> Path:
    """What the contexts of a file were made with stands beside it."""
    return path.with_name(f"{path.name}.made_with.json")


def _from_json(row: Any) -> Context:
    return Context(**{**row, "ids": tuple(row["ids"])})


def check_vocabulary(contexts: Iterable[Context], target: Target) -> None:
    """Raises ValueError for contexts that another target's tokenizer made."""
    for context in contexts:
        if max(context.ids) >= target.vocab_size:
            raise ValueError(
                f"context '{context.id}' holds token {max(context.ids)}, and {target.name} has {target.vocab_size}: "
                "record contexts of this target with `eagle-hsd trees record`"
            )


def _drop_torn_answer(file: JsonLines, num_cuts: int) -> list[Context]:
    """The contexts of whole answers; of the last one, a kill may have let only the first lines through."""
    contexts = read_contexts(file.path)
    last = [context for context in contexts if context.answer == contexts[-1].answer]
    if not last or len(last) == num_cuts:
        return contexts
    kept = [context for context in contexts if context.answer != last[0].answer]
    file.replace(map(asdict, kept))
    return kept


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
