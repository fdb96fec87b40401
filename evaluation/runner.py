"""The one loop: every question, seed and turn, all arms in turn on the same prompts, a row as soon as it is known."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from eagle.batching import Batch, Row
from eagle.decode import Rounds, Step
from eagle.prompting import Message, encode_prompt, render_prompt
from eagle.seeds import stable_number
from evaluation.arms import Arm, Models, Request, find_arm, find_row
from evaluation.eval_config import EvalConfig
from evaluation.recording import Generation, Recording, Seconds
from evaluation.rows import AnswerRow, Key, RunDirectory, is_degenerate
from evaluation.tasks import Question, Task, find_task, load_questions, parse_sources

QUEUE = 4  # times the batch: trials of an arm that follow each other, so that a row that ends is replaced
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


@dataclass(frozen=True)
class BatchRunner(Runner):
    """Plays trials of one arm and temperature side by side, a queue of them at a time, the arms in turn.

    A row's seconds are its share of what the batch took: its own work, and of a pass that n rows share the n-th part.
    So tokens over seconds, summed over rows, are the batch's own tokens a second; no answer's waiting time is told.
    """

    def _play_all(self, trials: Sequence[Trial], done: Mapping[Key, AnswerRow]) -> Iterator[AnswerRow]:
        queues: dict[tuple[str, float], list[Trial]] = {}
        for trial in trials:
            queue = queues.setdefault((trial.arm, trial.temperature), [])
            queue.append(trial)
            if len(queue) == QUEUE * self.config.batch:
                yield from self._play_queue(queue, done)
                queue.clear()
        for queue in queues.values():
            yield from self._play_queue(queue, done)

    def _play_queue(self, queue: Sequence[Trial], done: Mapping[Key, AnswerRow]) -> Iterator[AnswerRow]:
        batch, waiting = Batch[Step](), iter(queue)
        playing: dict[Row[Step], _Playing] = {}
        try:
            while True:
                for trial in islice(waiting, self.config.batch - len(batch)):
                    one = _Playing(self, trial, done)
                    yield from one.old_rows
                    playing[batch.add(one.work())] = one
                if not len(batch):
                    return
                for row in batch.advance():
                    if row.error is not None:
                        raise row.error
                    if row.told is not None and (found := playing[row].hear(row.told, row.seconds)) is not None:
                        yield found
        finally:
            batch.close()


class _Playing:
    """A trial as a row of a batch."""

    def __init__(self, runner: BatchRunner, trial: Trial, done: Mapping[Key, AnswerRow]):
        self._runner, self._trial, self._done = runner, trial, done
        self._row: AnswerRow | None = None  # of the turn before
        self._turn: tuple[Key, Request, Recording] | None = None  # under way
        # of the batch row's seconds: where the turn began, and behind its first step
        self._start_s = self._first_s = 0.0

    @property
    def old_rows(self) -> list[AnswerRow]:
        return [self._done[key] for key in self._trial.keys if key in self._done]

    def work(self) -> Rounds:
        """The steps of all turns that are missing."""
        messages = self._runner.opening()
        for key, turn in zip(self._trial.keys, self._trial.question.turns, strict=True):
            messages.append({"role": "user", "content": turn})
            self._row = self._done.get(key)
            if self._row is None:
                request = self._runner.request(key, messages)
                answering = find_row(key.arm, self._runner.config)(self._runner.models, request)
                self._turn = key, request, answering.recording()
                yield from answering.rounds()
            assert self._row is not None, "heard of the turn's last step"
            messages.append({"role": "assistant", "content": self._row.text})

    def hear(self, step: Step, seconds: float) -> AnswerRow | None:
        """A step, when its batch row has taken so many seconds in all; the row of the turn behind its last one."""
        assert self._turn is not None, "steps are those of a turn"
        key, request, recording = self._turn
        if not len(recording):
            self._first_s = seconds
        recording.add(step)
        if step.finish is None:
            return None
        share = Seconds(self._first_s - self._start_s, seconds - self._first_s)
        self._start_s, self._row = seconds, self._runner.keep(self._trial, key, request, recording.generation(share))
        return self._row


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
