"""Measure a head on held-out contexts and write its drafting.json, by which `--tree auto` chooses tree and size.

eagle-hsd trees record --sources held_out --num-questions 48        # once a target: contexts cut from its own answers
eagle-hsd trees fit                                                 # the shipped head, about 15 minutes on two cores
eagle-hsd trees fit --target ID --head DIR

Stopped at any moment, the same command goes on with the trees it had measured.
"""

import argparse
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from eagle.checkpoints.flat import head_fingerprint, read_head, write_fit
from eagle.checkpoints.weights import local_directory
from eagle.engine.target import Target
from eagle.loading import SHIPPED_HEAD, load_head, load_target
from eagle.options import CommandParser
from evaluation.runner import versions
from evaluation.trees.contexts import HELD_OUT, Context, read_contexts
from evaluation.trees.fit_head import fit_head
from evaluation.trees.shared import HeadSource


def fit_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--target", help="Hugging Face id, directory or GGUF file (default: the embedded SmolLM2)")
    parser.add_argument("--head", help="directory or Hugging Face id of a draft head (default: the shipped one)")
    parser.add_argument("--contexts", type=Path, default=Path("runs/laboratory/contexts.jsonl"))
    parser.add_argument("--output", type=Path, help="where drafting.json goes (default: beside the head)")
    parser.add_argument("--rows", type=Path, default=Path("runs/laboratory"), help="keeps what has been measured")
    parser.add_argument("--num-draws", type=int, default=2, help="trees a context of the policy that draws")
    parser.add_argument("--max-contexts", type=int, help="the first ones only, for a quick look")
    return parser.parse_args(argv)


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
        "dtype": str(target.dtype).removeprefix("torch."),
        "contexts": len(contexts),
        "questions": len({context.question for context in contexts}),
        "draws": num_draws,
        "python": platform.python_version(),
        **versions(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    args = fit_flags(argv)
    contexts = held_out_contexts(args.contexts, args.max_contexts)
    target = load_target(args.target)
    source = args.head or SHIPPED_HEAD
    head, directory = load_head(args.head, target), local_directory(source)
    name = head_fingerprint(read_head(source, target))
    fit = fit_head(target, HeadSource(head, target), contexts, name, args.rows, args.num_draws, _say)
    fit = replace(fit, provenance=provenance(target, contexts, args.num_draws))
    print(f"\nwrote {write_fit(args.output or directory, fit)}")


def _say(text: str) -> None:
    print(text, flush=True)
