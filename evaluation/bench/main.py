"""Time one verdict or one training step against plain implementations of the same: verify, training."""

from collections.abc import Sequence

from eagle.cli.dispatch import choose

COMMANDS = {
    "verify": "evaluation.bench.verify:main",
    "training": "evaluation.bench.training_step:main",
}


def main(argv: Sequence[str] | None = None) -> None:
    choose("eagle-hsd bench", COMMANDS, argv)
