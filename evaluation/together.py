"""Trials of one arm side by side in a batch: the same rows as one after the other, in other seconds.

A row's seconds are its share of what the batch took: its own work, and of a pass that n rows share the n-th part. So
tokens over seconds, summed over rows, are the batch's own tokens a second, and no answer's waiting time is told.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from eagle.batching import Batch, Row
from eagle.decode import Rounds, Step
from evaluation.arms import Request, find_row
from evaluation.recording import Recording, Seconds
from evaluation.rows import AnswerRow, Key
from evaluation.runner import Runner, Trial

QUEUE = 4  # times the batch: trials of an arm that follow each other, so that a row that ends is replaced


@dataclass(frozen=True)
class BatchRunner(Runner):
    """Plays trials of one arm and temperature side by side, a queue of them at a time, the arms in turn."""

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
        self._start_s = self._first_s = (
            0.0  # of the batch row's seconds: where the turn began, and behind its first step
        )

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
