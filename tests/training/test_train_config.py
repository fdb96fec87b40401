"""The configuration: every file loads, one flag is one field is one key, and mistakes are named."""

from pathlib import Path

import pytest

from eagle.data.prepare_config import PrepareConfig
from eagle.options import load, parse
from eagle.training.loss import LossWeights
from eagle.training.train_config import TrainConfig

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "train").glob("*.yaml"))


def test_there_are_training_configs():
    assert {"tiny", "smollm2"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_training_config_loads_and_opens_with_its_command(path):
    config = load(TrainConfig, path)
    assert path.read_text().startswith(f"# eagle-hsd train {path.relative_to(ROOT)}\n")
    if config.prepare is not None:
        prepared = load(PrepareConfig, ROOT / config.prepare)
        assert prepared.output == config.data


def test_flags_come_before_the_file_and_the_file_before_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("data: rows\nnum_steps: 5\nlearning_rate: 1.0e-3\n")
    flags = ["--num-steps", "7", "--max-steps", "none", "--gradient-checkpointing", "true"]
    config = parse(TrainConfig, "", [str(tmp_path / "c.yaml"), *flags], needs_file=True, fill_features=False)
    assert (config.num_steps, config.learning_rate, config.max_steps) == (7, 1e-3, None)
    assert config.gradient_checkpointing and config.step_decay == 0.8


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "data is missing"),
        ({"data": "x", "fill_features": True}, "features names no directory to fill"),
        ({"data": "x", "num_steps": 0}, "num_steps is 0, it must be at least 1"),
        ({"data": "x", "step_decay": 1.5}, "step_decay is 1.5, it must be at most 1"),
        ({"data": "x", "clip_norm": 0.0}, "clip_norm is 0.0, it must be larger than 0"),
        ({"data": "x", "init_fc": "low"}, "init_fc is 'low', choose one of high, average, random"),
        ({"data": "x", "loss_cross_entropy": 0.0}, "one must be larger than 0"),
        ({"data": "x", "loss_coupled": -1.0}, "loss_coupled is -1.0, it must be at least 0"),
        ({"data": "x", "max_length": 9000}, "max_length 9000 is larger than tokens_per_batch 4096"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)


def test_every_loss_has_an_option():
    weights = LossWeights(0, 0.1, 0.2, 0.3, 0.4)
    named = {f"loss_{name}": value for name, value in vars(weights).items()}
    assert TrainConfig(data="rows", **named).loss_weights == weights
    assert TrainConfig(data="rows", loss_cross_entropy=0.0, loss_coupled=1.0).loss_weights == LossWeights(0, coupled=1)


PARTS = ("sources", "initialisation", "unrolling", "batching", "chance", "optimization", "schedule", "intervals")


def test_the_parts_hold_what_the_options_say():
    config = TrainConfig(data="rows", num_steps=2, step_decay=0.5, loss_kl=0.25, max_steps=7, learning_rate=1.0, seed=3)
    for name in PARTS:
        part = getattr(config, name)
        assert vars(part) == {key: getattr(config, key) for key in vars(part)}, name
    assert config.unrolling.decay == [1.0, 0.5] and config.unrolling.loss_weights.kl == 0.25
    assert (config.batching.seed, config.chance.seed, config.initialisation.seed) == (3, 3, 3)


def test_unknown_keys_are_listed_beside_the_known_ones(tmp_path):
    (tmp_path / "c.yaml").write_text("data: rows\nlearning_rat: 1\n")
    with pytest.raises(
        ValueError, match=r"c\.yaml: unknown option learning_rat: known are .*output, data.*mean learning_rate"
    ):
        load(TrainConfig, tmp_path / "c.yaml")
