"""Let the target read the training conversations once and store its features, to train from later or elsewhere.

    python scripts/write_features.py configs/train/smollm2.yaml --features runs/features
    python scripts/train.py configs/train/smollm2.yaml --features runs/features              # reads them
    python scripts/train.py configs/train/smollm2.yaml --features runs/features --data none  # nothing but them

Takes the flags of scripts/train.py and prints the size before it writes. Killed at any moment, it goes on where it was.
"""

from eagle.training.run import write_features
from scripts.train import parse, run_or_explain

if __name__ == "__main__":
    run_or_explain(write_features, parse(__doc__ or "", fill_features=True))
