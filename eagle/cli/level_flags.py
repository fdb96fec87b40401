"""Flags of a hierarchy of drafters, for every command that decodes."""

import argparse
from pathlib import Path

import torch
from rich.console import Console

from eagle.drafters.protocol import Drafter
from eagle.engine.target import Target
from eagle.levels.chosen import ChosenLevels, choose_levels
from eagle.levels.opening import Opening
from eagle.levels.planned import level_report
from eagle.load_options import loading_options


def add_level_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hierarchy", type=Path, help="plan.json of `eagle-hsd hierarchy plan`: draft as it says")
    parser.add_argument(
        "--level",
        action="append",
        default=[],
        help="draft with levels named by hand, largest first: small=ID:buffer=8,head=DIR, copy=int8, lookup",
    )
    parser.set_defaults(notices=[])


def has_levels(args: argparse.Namespace) -> bool:
    return bool(args.level or args.hierarchy)


def levels_from_flags(args: argparse.Namespace, dtype: torch.dtype | None, target: Target | None) -> ChosenLevels:
    """Raises as `choose_levels`."""
    opening = Opening(args.target, args.head, dtype, args.device, loading_options(args))
    return choose_levels(args.hierarchy, args.level, opening, target, args.lookup)


def show_notices(console: Console, notices: list[str]) -> None:
    """What a running plan had to say during the last answer."""
    for notice in notices:
        console.print(notice, style="yellow", soft_wrap=True)
    notices.clear()


def show_levels(console: Console, drafter: Drafter | None) -> None:
    """What every level did; nothing of a drafter without levels."""
    for line in level_report(drafter) if drafter is not None else ():
        console.print(line, style="dim", soft_wrap=True)
