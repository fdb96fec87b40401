"""Time decoding, one verdict or one training step against what else there is: batch, decode, verify, training."""

from collections.abc import Sequence

from eagle.cli.dispatch import choose

COMMANDS = {
    "batch": "evaluation.bench.batch_speed:main",
    "decode": "evaluation.bench.decoding_speed:main",
    "verify": "evaluation.bench.verify:main",
    "training": "evaluation.bench.training_step:main",
}


def main(argv: Sequence[str] | None = None) -> None:
    choose("eagle-hsd bench", COMMANDS, argv)
