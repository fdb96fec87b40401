"""Let the target read the training conversations once and store its features, to train from later or elsewhere.

    python scripts/write_features.py configs/train/smollm2.yaml --features runs/features
    python scripts/train.py configs/train/smollm2.yaml --features runs/features --fill-features no
    python scripts/train.py configs/train/smollm2.yaml --features runs/features --fill-features no --data none

The last line needs nothing but the stored features: neither the target nor the conversations. Takes the flags of
scripts/train.py and prints the size before it writes. Killed at any moment, it goes on where it was.
"""

import sys

from eagle.options import parse
from eagle.training.run import leave, write_features
from eagle.training.train_config import TrainConfig

if __name__ == "__main__":
    config = parse(TrainConfig, __doc__ or "", needs_file=True, fill_features=True)
    try:
        write_features(config)
        leave()
    except (ValueError, OSError) as error:
        sys.exit(f"write_features: {error}")
