"""Tokens a second of decoding: ours, transformers' generate, llama.cpp, on targets of several precisions.

    eagle-hsd bench decode
    eagle-hsd bench decode --arms hf_generate hf_compiled hsd cpu-int4/hsd --temperatures 0 1
    eagle-hsd bench decode --arms hsd cpu-int4/hsd llama_cpp --gguf FILE.gguf      # needs llama-cpp-python

An arm is one of `eagle-hsd evaluate`, of the target as --dtype has it or, behind a precision and a slash, of one in
that precision (see --quantization), which is a target of its own. All arms answer a prompt after each other, in an
order that rotates, after a warm-up. The first token is not counted. Intervals are bootstrapped over prompts.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eagle.bootstrap import Resamples, divide, interval
from eagle.dtypes import named_dtype
from eagle.files import write_json
from eagle.load_options import loading_options
from eagle.loading import load_head, load_target
from eagle.options import check_options, option, parse
from eagle.packages import SMOLLM2
from eagle.seeds import stable_number
from evaluation.arms import Models, Request, find_arm
from evaluation.bench.bench_options import BenchOptions, conditions
from evaluation.eval_config import EvalConfig
from evaluation.peers import counted
from evaluation.recording import Generation, Seconds
from evaluation.runner import rotated
from evaluation.tasks import TASKS
from evaluation.trees.contexts import encode_question, prompts

AS_LOADED = ""
LLAMA = "llama_cpp"
BASES = ("hf_generate", "hf_compiled", "autoregressive")  # what speed-ups are over, where they are among the arms
WARM_UP_TOKENS = 12
NUM_RESAMPLES = 2000
WIDTH = 120


@dataclass(frozen=True, kw_only=True)
class DecodeBench(BenchOptions):
    """Options of `eagle-hsd bench decode`. Raises ValueError at construction for values outside their range."""

    arms: tuple[str, ...] = option(
        ("hf_generate", "autoregressive", "hsd", "cpu-int4/autoregressive", "cpu-int4/hsd"),
        "[PRECISION/]ARM: arms of evaluate, or llama_cpp",
        each_once=True,
    )
    temperatures: tuple[float, ...] = option((0.0, 1.0), "0 is greedy", at_least=0, at_most=100, each_once=True)
    tasks: tuple[str, ...] = option(tuple(TASKS), "of the prompts", choices=tuple(TASKS), each_once=True)
    limit: int = option(4, "prompts a task", at_least=1, at_most=10_000)
    max_new_tokens: int = option(96, "cap on every answer", at_least=2, at_most=1 << 20)
    gguf: str | None = option(None, "file that llama_cpp reads; that of the embedded target by default")
    seed: int = option(0, "of what is drawn")

    def __post_init__(self) -> None:
        check_options(self)
        for arm in self.arms:
            if arm != LLAMA:
                find_arm(split(arm)[1], EvalConfig())


@dataclass(frozen=True)
class Timed:
    """One answer of one arm."""

    arm: str
    temperature: float
    prompt: int
    tokens: int  # behind the first
    passes: int  # of the target
    seconds: float


def split(arm: str) -> tuple[str, str]:
    """Precision and arm."""
    precision, slash, name = arm.partition("/")
    return (precision, name) if slash else (AS_LOADED, arm)


def main(argv: Sequence[str] | None = None) -> None:
    config, console = parse(DecodeBench, __doc__ or "", argv), Console(highlight=False)
    if config.threads:
        torch.set_num_threads(config.threads)
    players = _Players(config)
    rows = list(measure(config, players, console))
    result = {"conditions": players.conditions(), "results": summarise(rows, config)}
    show(result, config, console)
    if config.output is not None:
        write_json(Path(config.output), {**result, "rows": [asdict(row) for row in rows]})


def measure(config: DecodeBench, players: "_Players", console: Console) -> Iterable[Timed]:
    """All arms on every prompt and temperature."""
    asked = players.prompts()
    for arm in config.arms:
        for temperature in config.temperatures:
            players.play(arm, asked[0], temperature, WARM_UP_TOKENS)
    for number, ids in enumerate(track(asked, "prompts", console=console, transient=True)):
        for temperature in config.temperatures:
            for arm in rotated(config.arms, number):
                answer = players.play(arm, ids, temperature, config.max_new_tokens)
                yield Timed(arm, temperature, number, answer.num_decoded, answer.rounds, answer.seconds.decode)


class _Players:
    """Targets in all precisions that are asked for, and who answers with them."""

    def __init__(self, config: DecodeBench):
        self.config = config
        self._models = {precision: self._load(precision) for precision in self._precisions()}
        self._llama: Any = _open_llama(config) if LLAMA in config.arms else None

    def _precisions(self) -> list[str]:
        needed = dict.fromkeys(split(arm)[0] for arm in self.config.arms if arm != LLAMA)
        return list(dict.fromkeys([AS_LOADED, *needed]))  # prompts are rendered with the first

    def _load(self, precision: str) -> Models:
        config = self.config
        options = {**loading_options(config), **({"quantization": precision} if precision else {})}
        dtype = named_dtype(config.dtype)
        target = load_target(config.target, dtype, config.device, **options)
        return Models(target, load_head(config.head, target))

    def prompts(self) -> list[list[int]]:
        target = self._models[AS_LOADED].target
        asked = (text for task in self.config.tasks for _, text in prompts(task, self.config.limit))
        return [encode_question(target, text) for text in asked]

    def play(self, arm: str, ids: list[int], temperature: float, num_tokens: int) -> Generation:
        seed = stable_number(self.config.seed, tuple(ids))
        if arm == LLAMA:
            return llama_answer(self._llama, ids, temperature, num_tokens, seed)
        precision, name = split(arm)
        config = EvalConfig(max_new_tokens=num_tokens)
        return find_arm(name, config)(self._models[precision], config, Request(ids, temperature, num_tokens, seed))

    def conditions(self) -> dict[str, Any]:
        return conditions(self.config, self._models[AS_LOADED].target)


def _open_llama(config: DecodeBench) -> Any:
    """Raises ValueError where llama-cpp-python is not installed."""
    try:
        from llama_cpp import Llama
    except ImportError as error:
        raise ValueError(f"arm 'llama_cpp' needs llama-cpp-python ({error}): pip install llama-cpp-python") from None
    path = config.gguf or str(SMOLLM2.path())
    return Llama(path, n_ctx=4096, n_threads=torch.get_num_threads(), verbose=False)


def llama_answer(llama: Any, ids: list[int], temperature: float, num_tokens: int, seed: int) -> Generation:
    """Its own sampler with every filter off; one token a pass."""
    llama.reset()
    llama.set_seed(seed % 2**31)
    begin, times, passes = time.perf_counter(), [], []
    drawn = llama.generate(ids, temp=temperature, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0)
    for token in drawn:
        times.append(time.perf_counter() - begin)
        passes.append([int(token)])
        if len(passes) == num_tokens or token == llama.token_eos():
            break
    return counted(passes, frozenset({llama.token_eos()}), num_tokens, Seconds(times[0], times[-1] - times[0]))


def summarise(rows: Sequence[Timed], config: DecodeBench) -> list[dict[str, Any]]:
    """Tokens a pass, tokens a second and speed-ups of every arm and temperature."""
    drawn = Resamples(1 + max(row.prompt for row in rows), NUM_RESAMPLES, config.seed)
    found = []
    for temperature in config.temperatures:
        rates = {arm: _rate(rows, arm, temperature, drawn) for arm in config.arms}
        for arm in config.arms:
            own = [row for row in rows if (row.arm, row.temperature) == (arm, temperature)]
            over = {base: asdict(interval(divide(rates[arm], rates[base]))) for base in BASES if base in rates}
            per_pass = sum(row.tokens for row in own) / max(sum(row.passes for row in own), 1)
            speed = {"tokens_per_pass": per_pass, "tokens_per_s": asdict(interval(rates[arm])), "over": over}
            found.append({"arm": arm, "temperature": temperature, **speed})
    return found


def _rate(rows: Sequence[Timed], arm: str, temperature: float, drawn: Resamples) -> Any:
    """Tokens a second of the estimate and of every resample."""
    sums = np.zeros((2, drawn.weights.shape[1]))
    for row in rows:
        if (row.arm, row.temperature) == (arm, temperature):
            sums[:, row.prompt] += row.tokens, row.seconds
    return drawn.ratio(sums[0], sums[1])


def show(result: Mapping[str, Any], config: DecodeBench, console: Console) -> None:
    bases = [base for base in BASES if base in config.arms]
    table = Table()
    for column in ("temperature", "arm", "tokens a pass", "tokens/s", *(f"x {base}" for base in bases)):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for row in result["results"]:
        numbers = (_told(row["tokens_per_s"], 1), *(_told(row["over"][base], 2) for base in bases))
        table.add_row(f"{row['temperature']:g}", row["arm"], f"{row['tokens_per_pass']:.2f}", *numbers)
    wide = Console(width=max(console.width, WIDTH), highlight=False)  # a pipe is taken for 80 columns
    wide.print(table)
    wide.print(", ".join(f"{name} {value}" for name, value in result["conditions"].items() if name != "options"))


def _told(found: Mapping[str, float | None], digits: int) -> str:
    value, low, high = (found[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    spread = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{spread}"
