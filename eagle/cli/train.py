"""Train a draft head from prepared conversations; run it again with the same arguments to resume.

    eagle-hsd train configs/train/tiny.yaml                       # a first head in minutes, on any machine
    eagle-hsd train configs/train/smollm2.yaml --output runs/a --num-steps 5
    accelerate launch --num_processes 8 scripts/train.py configs/train/smollm2.yaml --batches-per-step 8

Every key of the YAML file is a flag of the same name. OUTPUT/best and OUTPUT/last are heads ready for use.
"""

from collections.abc import Sequence

from eagle.options import parse
from eagle.training.run import leave, train
from eagle.training.train_config import TrainConfig


def main(argv: Sequence[str] | None = None) -> None:
    train(parse(TrainConfig, __doc__ or "", argv, needs_file=True))
    leave()
