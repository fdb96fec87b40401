"""Train a draft head from prepared conversations; run it again with the same arguments to resume.

    python scripts/train.py configs/train/tiny.yaml                       # a first head in minutes, on any machine
    python scripts/train.py configs/train/smollm2.yaml --output runs/a --num-steps 5
    accelerate launch --num_processes 8 scripts/train.py configs/train/smollm2.yaml --batches-per-step 8

Every key of the YAML file is a flag of the same name. OUTPUT/best and OUTPUT/last are heads ready for use.
"""

import sys

from eagle.options import parse
from eagle.training.run import leave, train
from eagle.training.train_config import TrainConfig

if __name__ == "__main__":
    config = parse(TrainConfig, __doc__ or "", needs_file=True)
    try:
        train(config)
        leave()
    except (ValueError, OSError) as error:
        sys.exit(f"train: {error}")
