"""Measure a head on held-out contexts and write its drafting.json, by which `--tree auto` chooses tree and size.

eagle-hsd trees record --sources held_out --num-questions 48        # once a target: contexts cut from its own answers
eagle-hsd trees fit                                                 # the shipped head, about 15 minutes on two cores
eagle-hsd trees fit --target ID --head DIR

Stopped at any moment, the same command goes on with the trees it had measured.
"""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from eagle.checkpoints.flat import head_fingerprint, read_head, write_fit
from eagle.checkpoints.weights import local_directory
from eagle.dtypes import dtype_name
from eagle.engine.target import Target
from eagle.load_options import LoadOptions, add_loading_flags, loading_options
from eagle.loading import SHIPPED_HEAD, load_head, load_target
from eagle.options import CommandParser, check_options, option
from evaluation.runner import versions
from evaluation.trees.contexts import HELD_OUT, Context, check_vocabulary, read_contexts
from evaluation.trees.fit_head import fit_head
from evaluation.trees.shared import HeadSource


@dataclass(frozen=True)
class FitConfig(LoadOptions):
    """Options of `eagle-hsd trees fit`. Raises ValueError at construction for values outside their range."""

    target: str | None = option(None, "Hugging Face id, directory or GGUF file; the embedded SmolLM2 by default")
    head: str | None = option(None, "draft head, directory or Hugging Face id; the shipped one by default")
    contexts: str = option("runs/laboratory/contexts.jsonl", "file of `trees record`")
    output: str | None = option(None, "directory that gets drafting.json; the head's own by default")
    rows: str = option("runs/laboratory", "directory that keeps what has been measured")
    num_draws: int = option(2, "trees a context of the policy that draws", at_least=1, at_most=1000)
    max_contexts: int | None = option(None, "the first ones only, for a quick look; all by default", at_least=1)

    def __post_init__(self) -> None:
        check_options(self)


def fit_flags(argv: Sequence[str] | None) -> FitConfig:
    default = FitConfig()
    parser = CommandParser(__doc__)
    parser.add_argument("--target", help="Hugging Face id, directory or GGUF file (default: the embedded SmolLM2)")
    parser.add_argument("--head", help="directory or Hugging Face id of a draft head (default: the shipped one)")
    parser.add_argument("--contexts", default=default.contexts)
    parser.add_argument("--output", help="directory that gets drafting.json (default: the head's own)")
    parser.add_argument("--rows", default=default.rows, help="keeps what has been measured")
    parser.add_argument("--num-draws", type=int, default=default.num_draws, help="trees a context of what draws")
    parser.add_argument("--max-contexts", type=int, help="the first ones only, for a quick look")
    add_loading_flags(parser)
    return FitConfig(**vars(parser.parse_args(argv)))


def refuse_unwritable(directory: Path) -> None:
    """Raises OSError where no file can be made: before the measuring, not after it."""
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
        raise PermissionError(f"{directory} cannot be written: name another place with --output")


def held_out_contexts(path: Path, most: int | None) -> list[Context]:
    """Raises FileNotFoundError where none were recorded."""
    contexts = [context for context in read_contexts(path) if context.source == HELD_OUT][:most]
    if not contexts:
        raise FileNotFoundError(f"no held-out contexts in {path}: run `eagle-hsd trees record --sources held_out`")
    return contexts


def provenance(target: Target, contexts: Sequence[Context], num_draws: int) -> dict[str, Any]:
    """Where the numbers come from."""
    return {
        "command": " ".join(["eagle-hsd trees fit", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "target": target.name,
        "dtype": dtype_name(target.dtype),
        "contexts": len(contexts),
        "questions": len({context.question for context in contexts}),
        "draws": num_draws,
        "python": platform.python_version(),
        **versions(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    config = fit_flags(argv)
    contexts = held_out_contexts(Path(config.contexts), config.max_contexts)
    Path(config.rows).mkdir(parents=True, exist_ok=True)  # what cannot be one is refused before anything is loaded
    target = load_target(config.target, **loading_options(config))
    check_vocabulary(contexts, target)
    source = config.head or SHIPPED_HEAD
    head, directory = load_head(config.head, target), Path(config.output or local_directory(source))
    refuse_unwritable(directory)
    name = head_fingerprint(read_head(source, target))
    fit = fit_head(target, HeadSource(head, target), contexts, name, Path(config.rows), config.num_draws, _say)
    fit = replace(fit, provenance=provenance(target, contexts, config.num_draws))
    print(f"\nwrote {write_fit(directory, fit)}")


def _say(text: str) -> None:
    print(text, flush=True)
