"""Two processes train what one trains."""

from pathlib import Path

import pytest
import torch

from eagle.checkpoints.flat import open_head
from eagle.training.log import METRICS, read_metrics
from eagle.training.run import train
from tests.training import runs
from tests.training.distributed import two_processes

SHARDED = Path(__file__).with_name("sharded_on_cpu.py")
STEPS = 4


@pytest.fixture
def flags(tmp_path):
    """The same small run for the script and for a call; its noise belongs to batches, not to processes."""
    return runs.script_flags(tmp_path) | {"max_steps": STEPS, "evaluate_every": 100, "loss_coupled": 0.5}


@pytest.mark.parametrize("script", [runs.TRAIN, SHARDED], ids=["data parallel", "sharded"])
def test_two_processes_have_the_loss_curve_of_one(script, tmp_path, flags):
    """The global batch is the same, so the losses are, up to the order in which float32 gradients are summed: 1e-4 of
    the loss after four steps, and as much of the weights' size in the exported head.

    Run again at its end, the run of two restores its state, and measures what it measured before, in the same rows.
    """
    train(runs.config(tmp_path / "one", **flags))
    two = {**vars(runs.config(tmp_path / "two", **flags)), "features": str(tmp_path / "features-two")}
    evaluations = []
    for _ in range(2):
        done = two_processes(script, tmp_path / "config.yaml", two)
        assert done.returncode == 0, done.stderr[-3000:]
        evaluations.append(read_metrics(tmp_path / "two" / METRICS, "eval"))
    assert evaluations[0] == evaluations[1] and len(evaluations[0]) == 2
    curves = [read_metrics(tmp_path / name / METRICS, "train") for name in ("one", "two")]
    assert len(curves[0]) == len(curves[1]) == STEPS
    for first, second in zip(*curves, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
        assert second["overlap"] == pytest.approx(first["overlap"], rel=1e-4)
        assert second["tokens_seen"] == first["tokens_seen"]
    of_one, of_two = (open_head(tmp_path / name / "last").state_dict() for name in ("one", "two"))
    for name, weight in of_one.items():
        torch.testing.assert_close(of_two[name], weight, rtol=2**-7, atol=1e-4)  # stored in bf16: one rounding apart
