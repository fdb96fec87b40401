"""What a run tells while it runs: progress bar, TensorBoard, and `metrics.jsonl`, from which the plots are drawn."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from eagle.files import JsonLines, naming

METRICS = "metrics.jsonl"


class RunLog:
    """Silent in all processes but the main one."""

    def __init__(self, output: Path, first_step: int, num_steps: int, enabled: bool):
        self._enabled = enabled
        if not enabled:
            return
        self._metrics = JsonLines(output / METRICS)
        drop_after(self._metrics, first_step)
        self._place = output / "tensorboard"
        with naming(self._place):
            self._board = SummaryWriter(str(self._place), purge_step=first_step + 1)
        self._console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console)
        self._task = self._bar.add_task("training", total=num_steps, completed=first_step)
        self._bar.start()

    def advance(self, step: int) -> None:
        if self._enabled:
            self._bar.update(self._task, completed=step)

    def say(self, text: str) -> None:
        if self._enabled:
            self._console.print(text, highlight=False)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One line of `metrics.jsonl`, and a TensorBoard scalar for every number in it."""
        if not self._enabled:
            return
        self._metrics.append({"kind": kind, "step": step, **values})
        with naming(self._place):
            self._show(kind, step, values)
        if kind == "train":
            self._bar.update(self._task, description=_summary(values))
            if not self._console.is_terminal:
                self.say(f"step {step}: {_summary(values)}")

    def _show(self, kind: str, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            numbers = dict(enumerate(value)) if isinstance(value, list | tuple) else {None: value}
            for index, number in numbers.items():
                label = f"{kind}/{name}" if index is None else f"{kind}/{name}_step{index}"
                self._board.add_scalar(label, number, step)
        self._board.flush()

    def close(self) -> None:
        if self._enabled:
            self._bar.stop()
            self._board.close()


def read_metrics(path: Path, kind: str) -> list[dict[str, Any]]:
    """The records of one kind, in order; an unfinished last line is left out."""
    return [record for record in _records(JsonLines(path)) if record["kind"] == kind]


def drop_after(metrics: JsonLines, step: int) -> None:
    """Remove what a resumed run writes again: the records after `step`, and the evaluation it begins with."""
    last = {"train": step, "eval": step - 1}
    metrics.replace(record for record in _records(metrics) if record["step"] <= last.get(record["kind"], step))


def _records(metrics: JsonLines) -> Iterator[dict[str, Any]]:
    for record in metrics.read():
        if not isinstance(record, dict) or not isinstance(record.get("step"), int) or "kind" not in record:
            raise ValueError(f"{metrics.path} holds a line that is no record of a run: remove it, or the file")
        yield record


def _summary(values: dict[str, Any]) -> str:
    overlap = " ".join(f"{value:.3f}" for value in values["overlap"])
    return f"loss {values['loss']:.3f}  overlap {overlap}  {values['tokens_per_s']:.0f} tok/s"
