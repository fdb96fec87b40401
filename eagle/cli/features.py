"""Let the target read the training conversations once and store its features, to train from later or elsewhere.

    eagle-hsd features configs/train/smollm2.yaml --features runs/features
    eagle-hsd train configs/train/smollm2.yaml --features runs/features --fill-features no
    eagle-hsd train configs/train/smollm2.yaml --features runs/features --fill-features no --data none

The last line needs nothing but the stored features: neither the target nor the conversations. Takes the flags of
`eagle-hsd train` and prints the size before it writes. Killed at any moment, it goes on where it was.
"""

from collections.abc import Sequence

from eagle.options import parse
from eagle.training.run import leave, write_features
from eagle.training.train_config import TrainConfig


def main(argv: Sequence[str] | None = None) -> None:
    write_features(parse(TrainConfig, __doc__ or "", argv, needs_file=True, fill_features=True))
    leave()
