"""Two processes train what one trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eagle.checkpoints.flat import open_head
from eagle.training.log import METRICS, read_metrics
from eagle.training.run import train
from tests.training import runs

ROOT = Path(__file__).parents[2]
TRAIN, SHARDED = ROOT / "scripts" / "train.py", Path(__file__).with_name("sharded_on_cpu.py")
STEPS = 4


@pytest.fixture
def flags(tmp_path):
    """The same small run for the script and for a call."""
    runs.save_target(tmp_path / "target")
    runs.save_rows(tmp_path / "rows.jsonl", 24)
    (tmp_path / "config.yaml").write_text("data: unused\n")
    return {
        "target": str(tmp_path / "target"),
        "data": str(tmp_path / "rows.jsonl"),
        "features": str(tmp_path / "features"),
        "fill_features": True,
        "num_held_out": 4,
        "max_steps": STEPS,
        "evaluate_every": 100,
    }


def two_processes(script: Path, config: Path, options: dict) -> None:
    """The script on two CPU processes, one thread each."""
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value).lower()
                 if value is None or isinstance(value, bool) else str(value))]  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launch, str(script), str(config), *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("script", [TRAIN, SHARDED], ids=["data parallel", "sharded"])
def test_two_processes_have_the_loss_curve_of_one(script, tmp_path, flags):
    """The global batch is the same, so the losses are, up to the order in which float32 gradients are summed: 1e-4 of
    the loss after four steps, and as much of the weights' size in the exported head.

    Run again at its end, the run of two restores its state, and measures what it measured before.
    """
    train(runs.config(tmp_path / "one", **flags))
    two = {**vars(runs.config(tmp_path / "two", **flags)), "features": str(tmp_path / "features-two")}
    for _ in range(2):
        two_processes(script, tmp_path / "config.yaml", two)
    curves = [read_metrics(tmp_path / name / METRICS, "train") for name in ("one", "two")]
    assert len(curves[0]) == len(curves[1]) == STEPS
    for first, second in zip(*curves, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
        assert second["overlap"] == pytest.approx(first["overlap"], rel=1e-4)
        assert second["tokens_seen"] == first["tokens_seen"]
    *_, ended, resumed = read_metrics(tmp_path / "two" / METRICS, "eval")
    assert resumed == ended
    of_one, of_two = (open_head(tmp_path / name / "last").state_dict() for name in ("one", "two"))
    for name, weight in of_one.items():
        torch.testing.assert_close(of_two[name], weight, rtol=2**-7, atol=1e-4)  # stored in bf16: one rounding apart
