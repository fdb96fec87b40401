"""Compare draft trees by the exact expected number of accepted tokens: record, compare, fit."""

from collections.abc import Sequence

from eagle.cli.dispatch import choose

COMMANDS = {
    "record": "evaluation.trees.record:main",
    "compare": "evaluation.trees.compare:main",
    "fit": "evaluation.trees.fit_command:main",
}


def main(argv: Sequence[str] | None = None) -> None:
    choose("eagle-hsd trees", COMMANDS, argv)
