"""Measure tau, speed and accuracy on MT-Bench, GSM8K and HumanEval, with intervals, and write a report.

    eagle-hsd evaluate --config configs/eval/quick.yaml
    eagle-hsd evaluate --tasks gsm8k --arms autoregressive eagle3 hsd --temperatures 0 1 --limit 10 --output runs/gsm8k

Killed and started again, the same command does only what is missing.
"""

import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eagle.checkpoints.flat import head_fingerprint
from eagle.dtypes import dtype_name, named_dtype
from eagle.endpoint import Endpoint
from eagle.engine.target import Target
from eagle.files import only_writer, remove_leftovers, write_json
from eagle.levels.chosen import ChosenLevels, choose_levels
from eagle.levels.opening import Opening
from eagle.load_options import loading_options
from eagle.loading import describe_target, load_head, load_target
from eagle.options import identity, parse
from eagle.parallel.launch import follows
from evaluation.arms import (
    DRAFTING,
    LEVEL_ARMS,
    SERVED,
    Models,
    check_fit,
    drafting_spec,
    find_arm,
    find_row,
    weights_digest,
)
from evaluation.equality import measure_differences, summarise_equality
from evaluation.eval_config import EvalConfig
from evaluation.hierarchy.predicted import compare_with_plan
from evaluation.report.document import PLOTS, write_report
from evaluation.report.fastchat import FOLDER, write_answers
from evaluation.report.summary import summarise
from evaluation.report.table import print_summary
from evaluation.rows import AnswerRow, Key, RunDirectory
from evaluation.runner import BatchRunner, Runner, load_all, machine, plan, versions
from evaluation.scoring import sandbox
from evaluation.selfcheck.check import Check, check_lossless, refuse_failed
from evaluation.tasks import Question, find_task

SUMMARY = "summary.json"
PLACES = (
    "target",
    "target_name",
    "head",
    "assistant",
    "sources",
    "hierarchy",
)  # options and names that say where something lies


def main(argv: Sequence[str] | None = None) -> None:
    evaluate(parse(EvalConfig, __doc__ or "", argv), Console())


def evaluate(config: EvalConfig, console: Console, models: Models | None = None) -> dict[str, Any]:
    """Run what is missing in the output directory and report on all that was asked for; returns the summary.

    Raises ValueError when the self-check fails or the directory holds another run, FileNotFoundError for models and
    benchmarks that are not there.
    """
    check_arms(config)
    if follows(config.tp):
        load_models(config)  # serves the first process until it ends
        sys.exit(0)
    questions = load_all(config)
    if any(find_task(name).runs_programs for name in config.tasks):
        sandbox.refuse_unsafe(config.unsafe_sandbox)
        if warning := sandbox.warning():
            console.print(f"warning: {warning}")
    with only_writer(Path(config.output)):
        for folder in (Path(config.output), Path(config.output, PLOTS), Path(config.output, FOLDER)):
            remove_leftovers(folder)
        return _evaluate(config, questions, console, models)


def _evaluate(
    config: EvalConfig, questions: dict[str, list[Question]], console: Console, models: Models | None
) -> dict[str, Any]:
    if config.threads:
        torch.set_num_threads(config.threads)
    models = models or load_models(config)
    if config.batch > 1 and (reason := models.target.why_not_together):
        console.print(f"warning: answers of a batch take turns, {models.target.name} cannot share a pass: {reason}")
    checks = run_self_check(config, models, console) if config.verify_lossless else []
    directory = RunDirectory(Path(config.output), run_identity(config, models))
    runner = Runner if config.batch == 1 else BatchRunner
    rows = play(runner(config, models, directory), questions, console)
    summary = make_summary(rows, config, models, checks, directory.path)
    write_json(directory.path / SUMMARY, summary)
    write_answers(rows, directory.path, models.target.name)
    report = write_report(summary, directory.path)
    print_summary(summary, console)
    for line in summary["hierarchy"].get("lines", ()):
        console.print(line, soft_wrap=True)
    console.print(f"{report} and {SUMMARY} beside it hold the rest")
    return summary


def check_arms(config: EvalConfig) -> None:
    """Raises ValueError for an arm that means nothing, and for trees that do, whether an arm asks for them or not.

    Also for an arm whose tree and verifier do not fit.
    """
    for name in (*config.arms, *DRAFTING):
        find_arm(name, config)
    for name in config.arms:
        check_fit(name, config)
        if config.batch > 1:
            find_row(name, config)


def run_identity(config: EvalConfig, models: Models) -> dict[str, Any]:
    """What rows depend on, wherever its files lie: models by their weights, trees by what the options come to.

    Of questions every row keeps a digest of its own.
    """
    described = {**identity(config), **describe_models(models), **describe_trees(config, models)}
    weights = {"target_weights": models.target.model, "assistant_weights": models.assistant}
    here = {name: model for name, model in weights.items() if model is not None and model.device.type != "meta"}
    digests = {name: weights_digest(model) for name, model in here.items()}
    left_out = (*PLACES, *(["batch"] if config.batch == 1 else []))  # directories of older versions go on
    return {name: value for name, value in described.items() if name not in left_out} | digests


def load_models(config: EvalConfig) -> Models:
    """The target, and the head and the assistant where an arm needs them."""
    dtype = named_dtype(config.dtype)
    endpoint = open_endpoint(config) if SERVED in config.arms else None
    if {*config.arms} == {SERVED}:  # nothing is decoded here
        return Models(describe_target(config.target, config.revision, config.trust_remote_code), endpoint=endpoint)
    target = load_target(config.target, dtype, config.device, **loading_options(config))
    head = load_head(config.head, target) if any(drafting_spec(m, config) for m in config.arms) else None
    assistant = load_target(config.assistant, dtype, config.device).model if config.assistant else None
    return Models(target, head, assistant, load_levels(config, target), endpoint, config.batch)


def open_endpoint(config: EvalConfig) -> Endpoint:
    """The server of arm served. Raises ValueError where none is named, and as `Endpoint`."""
    if config.endpoint is None:
        raise ValueError("arm 'served' needs a running server of the target: pass --endpoint http://HOST:PORT/v1")
    return Endpoint(config.endpoint, config.served_model)


def load_levels(config: EvalConfig, target: Target) -> ChosenLevels | None:
    """The levels of an arm that drafts with them."""
    if not set(LEVEL_ARMS) & set(config.arms):
        return None
    opening = Opening(config.target, config.head, named_dtype(config.dtype), config.device, loading_options(config))
    return choose_levels(config.hierarchy, config.level, opening, target)


def describe_trees(config: EvalConfig, models: Models) -> dict[str, str]:
    """The trees that the options come to with the numbers of this head and machine."""
    if models.head is None:
        return {}
    specs = {name: drafting_spec(name, config) for name in DRAFTING}
    return {f"tree of {name}": str(models.drafting(spec).policy) for name, spec in specs.items() if spec}


def describe_models(models: Models) -> dict[str, str | int]:
    """What rows depend on beyond the options: the weights of the head, precision, device and threads."""
    target = models.target
    described: dict[str, str | int] = {
        "target_name": target.name,
        "dtype": dtype_name(target.dtype),
        "device": "a server's" if target.device.type == "meta" else target.device.type,
        "threads": torch.get_num_threads(),
    }
    if models.head is not None:
        described["head_weights"] = head_fingerprint(models.head)
    if models.endpoint is not None:
        described["served model"] = models.endpoint.model
    if models.levels is not None:
        described["levels"] = models.levels.told
    return described


def run_self_check(config: EvalConfig, models: Models, console: Console) -> list[Check]:
    """Check every arm that drafts, at every temperature; raises ValueError when one is not lossless."""
    specs = dict.fromkeys(spec for spec in (drafting_spec(m, config) for m in config.arms) if spec)
    checks = []
    with single_thread():
        for spec, temperature in product(specs, config.temperatures):
            for check in check_lossless(spec, models.drafting(spec), temperature):
                checks.append(check)
                console.print(_sentence(check))
    refuse_failed(checks)
    return checks


def _sentence(check: Check) -> str:
    word = {True: "lossless", False: "FAILED", None: "undecided"}[check.passed]
    return f"self-check {check.drafting} T={check.temperature:g}, {check.name}: {word}, {check.finding}"


@contextmanager
def single_thread() -> Iterator[None]:
    """Tiny models wait for their threads longer than they compute, on a busy machine many times longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def play(runner: Runner, questions: dict[str, list[Question]], console: Console) -> dict[Key, AnswerRow]:
    """Run with a progress bar."""
    trials = plan(runner.config, questions)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("answers", total=sum(len(trial.keys) for trial in trials))

        def advance(row: AnswerRow) -> None:
            progress.update(bar, advance=1, description=f"{row.key.task} {row.key.arm} t={row.key.temperature:g}")

        return runner.run(trials, advance)


def make_summary(
    rows: Mapping[Key, AnswerRow], config: EvalConfig, models: Models, checks: Sequence[Check], folder: Path
) -> dict[str, Any]:
    """Everything the table and the report are made from."""
    differences = measure_differences(rows, models.target, folder)
    levels = models.levels
    planned = compare_with_plan(rows, levels.plan, levels.watch, config.resamples) if levels and levels.plan else {}
    return {
        **summarise(rows, config),
        "hierarchy": planned,
        "equality": summarise_equality(rows, differences),
        "self_check": [asdict(check) for check in checks],
        "conditions": conditions(config, models),
    }


def conditions(config: EvalConfig, models: Models) -> dict[str, Any]:
    """What a reader must know to believe or repeat the numbers."""
    return {
        "command": " ".join(["python", *sys.argv] if sys.argv[0].endswith(".py") else sys.argv),
        "options": asdict(config),
        **describe_models(models),
        **describe_trees(config, models),
        "machine": machine(),
        "python": platform.python_version(),
        **versions(),
        "batch": config.batch,
        "sandbox": sandbox.isolation(),
    }
