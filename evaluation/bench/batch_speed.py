"""Tokens a second of decoding against the rows that are decoded side by side: plain, and with trees of several sizes.

    eagle-hsd bench batch
    eagle-hsd bench batch --batches 1 4 16 --arms plain eagle:num_nodes=4+hsd eagle:num_nodes=12+hsd --temperature 1

An arm is `plain` or a TREE+VERIFIER as in `eagle-hsd evaluate`. All arms answer the same prompts, in an order that
rotates, after a warm-up. Only rounds in which all rows are at work are timed: prompts are not, nor is what is left when
the first row has ended.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eagle.batching import Batch
from eagle.decode import DecodeOptions, Session, Step
from eagle.drafters.head import DraftHead
from eagle.drafters.protocol import Drafter
from eagle.dtypes import named_dtype
from eagle.engine.target import Target
from eagle.files import write_json
from eagle.judging import COUPLED
from eagle.load_options import loading_options
from eagle.loading import load_head, load_target
from eagle.options import check_options, option, parse
from eagle.sampling import Sampling, seeded
from evaluation.arms import parse_drafting
from evaluation.bench.bench_options import BenchOptions, conditions
from evaluation.runner import rotated
from evaluation.tasks import TASKS
from evaluation.trees.contexts import encode_question, prompts

PLAIN = "plain"
WARM_UP_TOKENS = 8
WIDTH = 120


@dataclass(frozen=True, kw_only=True)
class BatchBench(BenchOptions):
    """Options of `eagle-hsd bench batch`. Raises ValueError at construction for values outside their range."""

    batches: tuple[int, ...] = option((1, 2, 4, 8, 16), "rows side by side", at_least=1, at_most=1024, each_once=True)
    arms: tuple[str, ...] = option(
        (PLAIN, *(f"eagle:num_nodes={num}+hsd" for num in (3, 6, 12))), "plain, or TREE+VERIFIER", each_once=True
    )
    temperature: float = option(0.0, "0 is greedy", at_least=0, at_most=100)
    take_turns: bool = option(False, "rows share no pass, for comparison")
    prompts: int = option(16, "prompts, of all tasks in turn", at_least=1, at_most=10_000)
    repeats: int = option(
        4, "batches of each number of rows, of other prompts each, where there are so many", at_least=1
    )
    max_new_tokens: int = option(64, "tokens of every answer", at_least=2, at_most=1 << 20)

    def __post_init__(self) -> None:
        check_options(self)
        if max(self.batches) > self.prompts:
            raise ValueError(
                f"{max(self.batches)} rows need as many prompts, there are {self.prompts}: raise --prompts"
            )
        for arm in self.arms:
            if arm != PLAIN:
                parse_drafting(arm)


@dataclass(frozen=True)
class Timed:
    """Some rows of one arm, while all of them were at work."""

    arm: str
    rows: int
    tokens: int
    rounds: int  # of the batch
    seconds: float


def main(argv: Sequence[str] | None = None) -> None:
    config, console = parse(BatchBench, __doc__ or "", argv), Console(highlight=False)
    if config.threads:
        torch.set_num_threads(config.threads)
    target = load_target(config.target, named_dtype(config.dtype), config.device, **loading_options(config))
    if reason := target.why_not_together:
        raise ValueError(f"rows of {target.name} take turns: {reason}")
    bench = _Bench(config, target, load_head(config.head, target))
    timed = list(bench.measure(console))
    told = conditions(config, target)
    show(summed(timed, config), config, console)
    console.print(", ".join(f"{name} {value}" for name, value in told.items() if name != "options"))
    if config.output is not None:
        results = [asdict(entry) for entry in summed(timed, config)]
        write_json(Path(config.output), {"conditions": told, "results": results})


@dataclass(frozen=True)
class _Bench:
    config: BatchBench
    target: Target
    head: DraftHead

    def measure(self, console: Console) -> Iterator[Timed]:
        """Every arm with every number of rows, on all prompts."""
        asked = self._prompts()
        for arm in self.config.arms:
            self._play(arm, asked[: min(2, len(asked))], WARM_UP_TOKENS)
        plays = [
            (rows, first)
            for rows in self.config.batches
            for first in range(0, len(asked) - rows + 1, rows)[: self.config.repeats]
        ]
        for number, (rows, first) in enumerate(track(plays, "rows", console=console, transient=True)):
            for arm in rotated(self.config.arms, number):
                yield self._play(arm, asked[first : first + rows], self.config.max_new_tokens)

    def _prompts(self) -> list[list[int]]:
        each = -(-self.config.prompts // len(TASKS))
        texts = [[text for _, text in prompts(task, each)] for task in TASKS]
        mixed = [text for same_rank in zip(*texts, strict=True) for text in same_rank]
        return [encode_question(self.target, text) for text in mixed[: self.config.prompts]]

    def _play(self, arm: str, asked: Sequence[list[int]], num_tokens: int) -> Timed:
        batch = Batch[Step](shares=not self.config.take_turns)
        for seed, ids in enumerate(asked):
            batch.add(
                Session(self.target, self._drafter(arm)).rounds(ids, self._options(arm, num_tokens), self._seeded(seed))
            )
        batch.advance()  # all prompts are read
        self._wait()
        tokens, rounds, begin = 0, 0, time.perf_counter()
        while len(batch) == len(asked):
            steps = [row.told for row in batch.advance() if row.told is not None]
            tokens, rounds = tokens + sum(len(step.tokens) for step in steps), rounds + 1
            if any(step.finish is not None for step in steps):
                break
        self._wait()
        seconds = time.perf_counter() - begin
        batch.close()
        return Timed(arm, len(asked), tokens, rounds, seconds)

    def _drafter(self, arm: str) -> Drafter | None:
        return None if arm == PLAIN else parse_drafting(arm).drafter(self.target, self.head)

    def _options(self, arm: str, num_tokens: int) -> DecodeOptions:
        verifier = COUPLED if arm == PLAIN else parse_drafting(arm).verifier
        return DecodeOptions(Sampling(self.config.temperature), num_tokens, verifier, ignore_end=True)

    def _seeded(self, seed: int) -> torch.Generator:
        return seeded(seed, self.target.device)

    def _wait(self) -> None:
        if self.target.device.type == "cuda":
            torch.cuda.synchronize(self.target.device)


def summed(timed: Iterable[Timed], config: BatchBench) -> list[Timed]:
    """One entry for each number of rows and arm."""
    entries = list(timed)
    return [
        Timed(arm, rows, *(sum(getattr(entry, name) for entry in own) for name in ("tokens", "rounds", "seconds")))
        for rows in config.batches
        for arm in config.arms
        if (own := [entry for entry in entries if (entry.arm, entry.rows) == (arm, rows)])
    ]


def show(entries: Sequence[Timed], config: BatchBench, console: Console) -> None:
    table = Table()
    for column in ("rows", "arm", "tokens/s", "x plain", "tokens a row and round", "ms a round"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    plain = {entry.rows: entry.tokens / entry.seconds for entry in entries if entry.arm == PLAIN}
    for entry in entries:
        rate = entry.tokens / entry.seconds
        over = f"{rate / plain[entry.rows]:.2f}" if entry.rows in plain else "-"
        per_round = f"{entry.tokens / (entry.rows * entry.rounds):.2f}"
        table.add_row(
            str(entry.rows), entry.arm, f"{rate:.1f}", over, per_round, f"{1000 * entry.seconds / entry.rounds:.1f}"
        )
    Console(width=max(console.width, WIDTH), highlight=False).print(table)
