"""Choose levels and buffers from a profile; writes plan.json beside it, with what it predicts.

eagle-hsd hierarchy plan runs/hierarchy
eagle-hsd hierarchy plan runs/hierarchy --max-buffer 8 --output runs/hierarchy/short.json
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from eagle.hierarchy.plan_text import told
from eagle.hierarchy.planning import MAX_BUFFER, plan
from eagle.hierarchy.profiles import Profile
from eagle.levels.opening import PROFILE
from eagle.options import CommandParser

PLAN = "plan.json"


def plan_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("run", type=Path, help="directory that `eagle-hsd hierarchy profile` wrote, or a profile")
    parser.add_argument("--max-buffer", type=int, default=MAX_BUFFER, help="tokens of a level at most")
    parser.add_argument("--output", type=Path, help="of the plan (default: plan.json beside the profile)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = plan_flags(argv)
    path = args.run / PROFILE if args.run.is_dir() else args.run
    plan_and_show(
        Profile.read(path), path.parent, Console(highlight=False), args.max_buffer, args.output or path.parent / PLAN
    )


def plan_and_show(
    profile: Profile, folder: Path, console: Console, max_buffer: int = MAX_BUFFER, output: Path | None = None
) -> None:
    """Plan, write it and print it."""
    output = output or folder / PLAN
    best = plan(profile, max_buffer)
    best.write(output)
    console.print(told(best), soft_wrap=True, markup=False)
    console.print(f"{output}: run it with --hierarchy {output} (chat, demo, evaluate)", style="dim", soft_wrap=True)
