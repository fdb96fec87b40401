"""Hierarchies of drafters: measure models on each other, and choose levels and buffers."""

from collections.abc import Sequence

from eagle.cli.dispatch import choose

COMMANDS = {
    "profile": "evaluation.hierarchy.profile_command:main",
    "plan": "evaluation.hierarchy.plan_command:main",
}


def main(argv: Sequence[str] | None = None) -> None:
    choose("eagle-hsd hierarchy", COMMANDS, argv)
