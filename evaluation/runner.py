"""The one loop: every question, seed and turn, all arms in turn on the same prompts, a row as soon as it is known."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from eagle.prompting import Message, encode_prompt, render_prompt
from eagle.seeds import stable_number
from evaluation.arms import Arm, Models, Request, find_arm
from evaluation.eval_config import EvalConfig
from evaluation.recording import Generation
from evaluation.rows import AnswerRow, Key, RunDirectory, is_degenerate
from evaluation.tasks import Question, Task, find_task, load_questions, parse_sources

WARM_UP_TOKENS = 16
WARM_UP_PROMPT = "Count from one to twenty in words."


class Trial(NamedTuple):
    """One question put to one arm: the unit that is played from its first turn to its last."""

    task: Task
    question: Question
    arm: str
    temperature: float
    seed: int

    def key(self, turn: int) -> Key:
        return Key(self.task.name, self.question.id, turn, self.arm, self.temperature, self.seed)

    @property
    def keys(self) -> list[Key]:
        return [self.key(turn) for turn in range(len(self.question.turns))]


def plan(config: EvalConfig, questions: dict[str, list[Question]] | None = None) -> list[Trial]:
    """Every trial in the order of play.

    Tasks advance together, so that a run cut short is short everywhere, and the arms of a question follow each other
    in an order that rotates, so that a machine that slows down slows all of them.
    """
    questions = questions or load_all(config)
    tasks = [[(find_task(name), question) for question in questions[name]] for name in config.tasks]
    played = [entry for same_rank in zip_longest(*tasks) for entry in same_rank if entry is not None]
    trials = []
    for number, (task, question) in enumerate(played):
        for temperature in config.temperatures:
            for seed in range(config.num_seeds(temperature)):
                arms = rotated(config.arms, number + seed)
                trials += [Trial(task, question, arm, temperature, seed) for arm in arms]
    return trials


def load_all(config: EvalConfig) -> dict[str, list[Question]]:
    """The questions of every task of the run."""
    sources = parse_sources(config.sources)
    return {name: load_questions(find_task(name), sources.get(name), config.limit) for name in config.tasks}


def rotated(items: Sequence[str], by: int) -> list[str]:
    by %= len(items)
    return [*items[by:], *items[:by]]


def draw_seed(run_seed: int, seed: int, task: str, question: str, turn: int) -> int:
    """The generator's seed: a function of run, repetition, task, question and turn, and of nothing else."""
    return stable_number(run_seed, seed, task, question, turn)


@dataclass(frozen=True)
class Runner:
    """Plays trials with one set of models and writes their rows into one directory.

    A row stands for its question as it was: when the question is edited, it is asked again.
    """

    config: EvalConfig
    models: Models
    directory: RunDirectory

    def run(self, trials: Sequence[Trial], progress: Callable[[AnswerRow], None]) -> dict[Key, AnswerRow]:
        """Play what is missing; returns the rows that were asked for. `progress` hears of every row, old ones too."""
        asked = {key: trial.question.digest for trial in trials for key in trial.keys}
        done = {key: row for key, row in self.directory.rows().items() if asked.get(key) == row.question}
        missing = [c for c in trials if not all(key in done for key in c.keys)]
        self._warm_up(missing)
        for row in self._play_all(trials, done):
            done[row.key] = row
            progress(row)
        return done

    def _play_all(self, trials: Sequence[Trial], done: Mapping[Key, AnswerRow]) -> Iterator[AnswerRow]:
        """Rows of all trials, those that are there already too."""
        for trial in trials:
            yield from self._play(trial, done)

    def _play(self, trial: Trial, done: Mapping[Key, AnswerRow]) -> Iterator[AnswerRow]:
        messages = self.opening()
        for key, turn in zip(trial.keys, trial.question.turns, strict=True):
            messages.append({"role": "user", "content": turn})
            row = done.get(key)
            if row is None:
                request = self.request(key, messages)
                row = self.keep(trial, key, request, self._arm(key.arm)(self.models, self.config, request))
            messages.append({"role": "assistant", "content": row.text})
            yield row

    def opening(self) -> list[Message]:
        """What stands before the first turn."""
        return [] if self.config.system is None else [{"role": "system", "content": self.config.system}]

    def request(self, key: Key, messages: list[Message]) -> Request:
        seed = draw_seed(self.config.seed, key.seed, key.task, key.question, key.turn)
        return Request(self._prompt_ids(messages), key.temperature, self.config.max_new_tokens, seed)

    def keep(self, trial: Trial, key: Key, request: Request, generation: Generation) -> AnswerRow:
        """Write down what was answered."""
        generation.check(self.models.target.end_token_ids, self.config.max_new_tokens)
        text = self._text(generation.tokens)
        row = AnswerRow(
            key=key,
            draw_seed=request.seed,
            prompt_tokens=tuple(request.prompt_ids),
            generation=generation,
            text=text,
            correct=self._score(trial, text),
            degenerate=is_degenerate(generation.tokens),
            config=self.directory.config,
            versions=versions(),
            question=trial.question.digest,
            batch=self.config.batch,
        )
        self.directory.append(row)
        return row

    def _score(self, trial: Trial, text: str) -> bool | None:
        """None where answers are judged by a model and not by us."""
        if trial.task.score is None:
            return None
        return trial.task.score(trial.question, text, unsafe_sandbox=self.config.unsafe_sandbox)

    def _warm_up(self, trials: Sequence[Trial]) -> None:
        """A short answer of every arm that still has work, thrown away: first calls compile and allocate."""
        prompt_ids = self._prompt_ids([{"role": "user", "content": WARM_UP_PROMPT}])
        for arm, temperature in dict.fromkeys((c.arm, c.temperature) for c in trials):
            request = Request(prompt_ids, temperature, min(WARM_UP_TOKENS, self.config.max_new_tokens), seed=0)
            self._arm(arm)(self.models, self.config, request)

    def _arm(self, name: str) -> Arm:
        return find_arm(name, self.config)

    def _prompt_ids(self, messages: list[Message]) -> list[int]:
        tokenizer = self._tokenizer
        return encode_prompt(tokenizer, render_prompt(tokenizer, messages, self.config.template))

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        if self.models.target.tokenizer is None:
            raise ValueError("this target was made without a tokenizer: pass one to Target(model, tokenizer)")
        return self.models.target.tokenizer


def versions() -> dict[str, str]:
    """What the numbers depend on besides this repository."""
    return {"torch": torch.__version__, "transformers": version("transformers")}


def machine() -> str:
    """What the times depend on."""
    return f"{_processor()}, {platform.system()}"


def _processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(names) or '?'} cores"
