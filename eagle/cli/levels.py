"""Flags of a hierarchy of drafters, for every command that decodes."""

import argparse
from pathlib import Path

import torch
from rich.console import Console

from eagle.drafters.protocol import Drafter
from eagle.engine.target import Target
from eagle.hierarchy.plans import Plan
from eagle.levels.building import build_drafter, hand_made
from eagle.levels.candidates import Candidates
from eagle.levels.opening import open_again, open_candidates, read_plan
from eagle.levels.planned import PlannedDrafter, level_report
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


def levels_from_flags(
    args: argparse.Namespace, dtype: torch.dtype | None, target: Target | None = None
) -> tuple[Candidates, Drafter]:
    """The models, loaded, and what drafts with them.

    Raises ValueError for both flags at once, for another target than the plan's, and as loading does.
    """
    if args.level and args.hierarchy:
        raise ValueError("--hierarchy and --level are given: a plan names its own levels, leave one of them out")
    if args.hierarchy:
        return _planned(args, target)
    parsed = hand_made(tuple(args.level), with_head=args.head is not None or args.target is None)
    candidates = open_candidates(
        args.target, args.head, args.level, dtype, args.device, target, **loading_options(args)
    )
    return candidates, build_drafter(candidates, parsed)


def _planned(args: argparse.Namespace, target: Target | None) -> tuple[Candidates, Drafter]:
    plan, profile = read_plan(args.hierarchy)
    check_same_target(plan, args.target)
    candidates = open_again(plan, args.device, target)
    return candidates, PlannedDrafter(plan, candidates, profile, told=args.notices.append)


def show_notices(console: Console, notices: list[str]) -> None:
    """What a running plan had to say during the last answer."""
    for notice in notices:
        console.print(notice, style="yellow", soft_wrap=True)
    notices.clear()


def show_levels(console: Console, drafter: Drafter | None) -> None:
    """What every level did; nothing of a drafter without levels."""
    for line in level_report(drafter) if drafter is not None else ():
        console.print(line, style="dim", soft_wrap=True)


def check_same_target(plan: Plan, source: str | None) -> None:
    """Raises ValueError for a plan of another target than the one that is named."""
    planned = plan.provenance.get("target")
    if source is not None and str(Path(source).absolute()) != planned and source != planned:
        raise ValueError(f"--target is '{source}', the plan is for {planned or 'the packaged target'}: leave it out")
