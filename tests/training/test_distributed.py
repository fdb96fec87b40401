"""Two processes train what one trains, and go on where the other left off."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from eagle.checkpoints.flat import open_head
from eagle.training.log import METRICS, read_metrics
from eagle.training.run import train
from eagle.training.train_config import TrainConfig
from tests.training import runs
from tests.training.distributed import two_processes

SHARDED = Path(__file__).with_name("sharded_on_cpu.py")
STEPS = 4
ONLINE = {"features": None, "fill_features": False}


class Arrangement(NamedTuple):
    """How two processes share the work."""

    script: Path
    changes: dict[str, Any]


ARRANGEMENTS = {
    "data parallel": Arrangement(runs.TRAIN, {}),
    "sharded head": Arrangement(SHARDED, {}),
    "sharded target": Arrangement(runs.TRAIN, {**ONLINE, "shard_target": True}),
    "sharded head and target": Arrangement(SHARDED, {**ONLINE, "shard_target": True, "packing": True}),
}


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """The same small run for the script and for a call; its noise belongs to batches, not to processes."""
    changes = {"max_steps": STEPS, "evaluate_every": 100, "loss_coupled": 0.5}
    return runs.script_flags(tmp_path_factory.mktemp("flags")) | changes


@pytest.fixture(scope="module")
def of_one(flags, tmp_path_factory):
    """The run of one process, with padded and with packed rows."""
    directory = tmp_path_factory.mktemp("one")
    for packing in (False, True):
        train(runs.config(directory / str(packing), **flags, packing=packing))
    return directory


def config_of(output: Path, flags: dict[str, Any], arrangement: Arrangement) -> TrainConfig:
    return runs.config(output, **{**flags, "features": str(output.with_name("features")), **arrangement.changes})


def in_two(config: TrainConfig, arrangement: Arrangement, flags: dict[str, Any]) -> None:
    done = two_processes(arrangement.script, Path(flags["target"]).with_name("config.yaml"), vars(config))
    assert done.returncode == 0, done.stderr[-3000:]


def check_same(found: Path, expected: Path) -> None:
    """The global batch is the same, so the losses are, up to the order in which float32 gradients are summed: 1e-4 of
    the loss after four steps, and as much of the weights' size in the exported head, stored in bf16: one rounding more.
    """
    curves = [read_metrics(output / METRICS, "train") for output in (expected, found)]
    assert [row["step"] for row in curves[1]] == [row["step"] for row in curves[0]] == list(range(1, STEPS + 1))
    for first, second in zip(*curves, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
        assert second["overlap"] == pytest.approx(first["overlap"], rel=1e-4)
        assert second["gradient_norm"] == pytest.approx(first["gradient_norm"], rel=1e-4)
        assert second["tokens_seen"] == first["tokens_seen"]
    of_one, of_two = (open_head(output / "last").state_dict() for output in (expected, found))
    for name, weight in of_one.items():
        torch.testing.assert_close(of_two[name], weight, rtol=2**-7, atol=1e-4)


def back_to_the_middle(finished: Path, output: Path) -> Path:
    """A copy of a run as it was when its last state but one was written."""
    shutil.copytree(finished, output)
    shutil.rmtree(max((output / "states").glob("step-*")))
    return output


@pytest.mark.parametrize("arrangement", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_two_processes_have_the_loss_curve_of_one_and_take_turns_with_it(arrangement, tmp_path, flags, of_one):
    """A run of two, a run of two that one process ends, and a run of one that two end: all the same run."""
    one = of_one / str(arrangement.changes.get("packing", False))
    in_two(config_of(tmp_path / "two", flags, arrangement), arrangement, flags)
    check_same(tmp_path / "two", one)
    for output in (one, tmp_path / "two"):
        files = sorted(path.name for path in (output / "states" / "step-00000004").iterdir())
        assert files == ["files.json", "model.safetensors", "optimizer.bin", "progress.json"]
    alone = Arrangement(runs.TRAIN, {**arrangement.changes, "shard_target": False})
    train(config_of(back_to_the_middle(tmp_path / "two", tmp_path / "ended by one"), flags, alone))
    check_same(tmp_path / "ended by one", one)
    in_two(config_of(back_to_the_middle(one, tmp_path / "ended by two"), flags, arrangement), arrangement, flags)
    check_same(tmp_path / "ended by two", one)


@pytest.mark.parametrize(
    ("name", "value"),
    [("features", "somewhere"), ("prepare", "a.yaml"), ("device_map", "auto"), ("quantization", "cpu-int8")],
)
def test_a_divided_target_is_not_asked_for_what_one_process_does(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"shard_target is set, and {name} is '{value}': .* leave {name} out"):
        runs.config(tmp_path, shard_target=True, **{name: value})


def test_tensor_parallel_training_is_told_of_its_own_way(tmp_path):
    with pytest.raises(ValueError, match="tp is 2: processes of training have batches of their own, take shard_target"):
        runs.config(tmp_path, tp=2)


def test_one_process_divides_nothing(tmp_path, flags):
    online = Arrangement(runs.TRAIN, {**ONLINE, "shard_target": True})
    with pytest.raises(ValueError, match="shard_target is set, and this is one process: start several"):
        train(config_of(tmp_path / "run", flags, online))
