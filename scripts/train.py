"""Train a draft head from prepared conversations; run it again with the same arguments to resume.

    python scripts/train.py configs/train/tiny.yaml                       # a first head in minutes, on any machine
    python scripts/train.py configs/train/smollm2.yaml --output runs/a --num-steps 5
    accelerate launch --num_processes 8 scripts/train.py configs/train/smollm2.yaml

Every key of the YAML file is a flag of the same name. OUTPUT/best and OUTPUT/last are heads ready for use.
"""

import argparse
import dataclasses
import types
import typing

from eagle.training.config import TrainConfig, read_config
from eagle.training.run import train


def parse() -> TrainConfig:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a YAML file of configs/train")
    hints = typing.get_type_hints(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        flag, kind = "--" + field.name.replace("_", "-"), _base_type(hints[field.name])
        action = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        parser.add_argument(flag, default=argparse.SUPPRESS, **action)
    given = vars(parser.parse_args())
    return read_config(given.pop("config"), given)


def _base_type(hint: type | types.UnionType) -> type:
    """`str | None` -> str."""
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    return options[0] if options else typing.cast(type, hint)


def main() -> None:
    try:
        train(parse())
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
