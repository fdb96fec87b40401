"""Measure how often models accept each other's tokens and what passes cost; writes profile.json, plan.json and a table.

    eagle-hsd hierarchy profile --target BIG --level small=ID,head=DIR --level lookup --output runs/hierarchy
    eagle-hsd hierarchy profile --level copy=int8 --level lookup        # the packaged target, its head, a copy of it

Killed and started again, the same command measures what is missing.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from eagle.dtypes import named_dtype
from eagle.engine.target import Target
from eagle.files import only_writer, remove_leftovers
from eagle.hierarchy.profiles import Profile
from eagle.levels.loaded import Candidates
from eagle.levels.opening import PROFILE, Opening, described, open_candidates
from eagle.levels.profiling import ProfileOptions, Prompt, profile
from eagle.load_options import LoadOptions, loading_options
from eagle.options import DTYPES, check_options, option, parse
from evaluation.hierarchy.plan_command import plan_and_show
from evaluation.runner import machine, versions
from evaluation.trees.contexts import SOURCES, encode_question, prompts


@dataclass(frozen=True, kw_only=True)
class ProfileConfig(ProfileOptions, LoadOptions):
    """Options of `eagle-hsd hierarchy profile`. Raises ValueError at construction for values outside their range."""

    output: str = option("runs/hierarchy", "directory of the profile and the plan", may_change=True)
    level: tuple[str, ...] = option((), "small=ID,head=DIR, copy=int8 or lookup; several, the largest first")
    target: str | None = option(None, "Hugging Face id, directory or GGUF file; the embedded SmolLM2 by default")
    head: str | None = option(None, "of the target; 'without': none; the shipped one for the embedded target")
    sources: tuple[str, ...] = option(SOURCES, "of the prompts", choices=SOURCES, each_once=True)
    num_questions: int = option(8, "of every source", at_least=1, at_most=10_000)
    max_prompt_tokens: int = option(512, "leave longer ones out", at_least=1, at_most=1 << 20)
    template: str | None = option(None, "FastChat conversation template, for a tokenizer without a chat template")
    dtype: str | None = option(None, "of all weights; what the machine multiplies by default", choices=DTYPES)
    device: str | None = option(None, "such as cpu or cuda; the first accelerator by default")
    threads: int | None = option(None, "CPU threads; torch's choice by default", at_least=1, at_most=1024)

    def __post_init__(self) -> None:
        check_options(self)


def main(argv: Sequence[str] | None = None) -> None:
    config, console = parse(ProfileConfig, __doc__ or "", argv), Console(highlight=False)
    opening = Opening(config.target, config.head, named_dtype(config.dtype), config.device, loading_options(config))
    if not config.level and not opening.has_head:
        raise ValueError("there is nothing to profile: name a --level, or a --head")
    folder = Path(config.output)
    with only_writer(folder):
        remove_leftovers(folder)
        measured = run_profile(config, opening, console)
        measured.write(folder / PROFILE)
        plan_and_show(measured, folder, console)


def run_profile(config: ProfileConfig, opening: Opening, console: Console) -> Profile:
    """Loads the models and measures what the output directory lacks."""
    if config.threads:
        torch.set_num_threads(config.threads)
    candidates = open_candidates(opening, config.level)
    asked = questions(config, candidates.target)
    options = ProfileOptions(**{field.name: getattr(config, field.name) for field in fields(ProfileOptions)})
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"{len(asked)} prompts", total=len(asked))
        return profile(
            candidates.target,
            candidates,
            asked,
            options,
            Path(config.output),
            lambda done, _all: bar.update(task, completed=done),
            provenance(config, opening, candidates),
        )


def questions(config: ProfileConfig, target: Target) -> list[Prompt]:
    """The first ones of every source. Raises ValueError where all of them are too long."""
    found = []
    for source in config.sources:
        for name, text in prompts(source, config.num_questions):
            ids = tuple(encode_question(target, text, config.template))
            if len(ids) <= config.max_prompt_tokens:
                found.append(Prompt(f"{source}/{name}", ids))
    if not found:
        raise ValueError(f"no prompt has at most {config.max_prompt_tokens} tokens: raise --max-prompt-tokens")
    return found


def provenance(config: ProfileConfig, opening: Opening, candidates: Candidates) -> dict[str, Any]:
    """How the numbers came about, and what to load to run a plan of them."""
    return {
        **described(opening, candidates),
        "temperature": config.temperature,
        "verifier": config.verifier,
        "machine": machine(),
        "device": str(candidates.target.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "command": " ".join(sys.argv),
    }
