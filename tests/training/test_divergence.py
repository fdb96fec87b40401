"""Training that diverges: steps are left out, the run stops with one line, and what was good stays."""

import math

import pytest
import torch

from eagle.checkpoints.flat import open_head
from eagle.training import trainer as trainer_module
from eagle.training.log import METRICS, read_metrics
from eagle.training.optimizers import PATIENCE, Diverged, learning_rate
from tests.training import runs
from tests.training.distributed import two_processes


def explode(monkeypatch, at: int, factor: float = 1e30) -> None:
    """From step `at` on (counted from 0) the learning rate is `factor` times what it should be."""

    def rate(schedule, step, num_steps):
        return learning_rate(schedule, step, num_steps) * (factor if step >= at else 1)

    monkeypatch.setattr(trainer_module, "learning_rate", rate)


def contents(directory) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("rate", [1e10, 1e30, 1e300])
def test_a_rate_that_is_far_too_high_ends_with_one_line(tmp_path, rate):
    """It ended with exit code 0, nan in every weight and in best/ or last/."""
    with pytest.raises(Diverged) as raised:
        runs.trainer(runs.config(tmp_path, learning_rate=rate), runs.setting()).run()
    told = str(raised.value)
    assert "\n" not in told and "not finite" in told and "lower learning_rate" in told and "at step " in told
    assert "fc.weight" in told and "learning rate " in told
    head = open_head(tmp_path / "best")
    assert all(parameter.isfinite().all() for parameter in head.parameters())
    assert not (tmp_path / "last").exists() and not list((tmp_path / "states").glob("step-*"))


def test_what_was_good_is_not_overwritten(tmp_path, monkeypatch):
    """The step of 1e30 leaves weights that are finite and compute nan: they are saved nowhere either."""
    config, on = runs.config(tmp_path, save_every=1, evaluate_every=1, num_epochs=6), runs.setting()
    runs.trained_head(config, on, stop_after=4)
    good = {name: contents(tmp_path / name) for name in ("best", "last", "states")}
    explode(monkeypatch, at=4)
    with pytest.raises(Diverged, match=rf"at step {5 + PATIENCE} .*{PATIENCE} steps in a row were left out"):
        runs.trained_head(config, on)
    assert good == {name: contents(tmp_path / name) for name in ("best", "last", "states")}
    assert all(math.isfinite(row["gradient_norm"]) for row in read_metrics(tmp_path / METRICS, "train")[:5])


def test_a_run_that_diverges_in_its_last_steps_does_not_end_well(tmp_path, monkeypatch):
    """Too few steps are left to count three in a row: the last evaluation tells."""
    config, on = runs.config(tmp_path, max_steps=4), runs.setting()
    explode(monkeypatch, at=3)
    with pytest.raises(Diverged, match=r"at step 4 .*predictions for the held-out conversations are not finite"):
        runs.trained_head(config, on)
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step-00000002"]


class Poisoned:
    """Signals of which those of some batches are nan."""

    def __init__(self, signals, batches):
        self._signals, self._batches, self.read_so_far = signals, batches, 0

    def read(self, batch, at):
        signals = self._signals.read(batch, at)
        self.read_so_far += 1
        poison = math.nan if self.read_so_far in self._batches else 1.0
        return signals._replace(features=signals.features * poison)


def poisoned(config, on, batches):
    run = runs.trainer(config, on)
    run._signals = Poisoned(run._signals, batches)
    return run


def test_a_single_bad_batch_is_left_out_and_counted(tmp_path):
    """One batch that overflows must not cost the run: the step is left out, the next ones are taken."""
    run = poisoned(runs.config(tmp_path), runs.setting(), {3})
    run.run()
    rows = read_metrics(tmp_path / METRICS, "train")
    assert [row["skipped_steps"] for row in rows] == [0, *[1] * (len(rows) - 1)]
    assert [math.isfinite(row["gradient_norm"]) for row in rows] == [True, False, *[True] * (len(rows) - 2)]
    assert run.progress.skipped_steps == 1
    assert all(parameter.isfinite().all() for parameter in open_head(tmp_path / "last").parameters())


def test_a_step_that_is_left_out_moves_nothing(tmp_path):
    config, on = runs.config(tmp_path / "a", max_steps=2), runs.setting()
    once = runs.trained_head(runs.config(tmp_path / "b", max_steps=2), on, stop_after=1)
    run = poisoned(config, on, {3})
    run.run()
    assert torch.equal(run._head.fc.weight, once.fc.weight)


def test_a_start_that_is_not_finite_is_refused_before_a_step(tmp_path):
    """A head of nan to go on from, or a target whose features are: nothing can be trained from either."""
    run = runs.trainer(runs.config(tmp_path), runs.setting())
    run._head.midlayer.mlp.up_proj.weight.data[0, 0] = math.inf
    with pytest.raises(Diverged, match=r"at step 0 .*midlayer\.mlp\.up_proj\.weight is not finite"):
        run.run()
    assert not (tmp_path / "best").exists()


def test_a_step_without_predictions_does_not_count_as_divergence(tmp_path):
    """Answers of three tokens have nothing for a fifth step: its mean is nan, and no head was ever the best."""
    on = runs.setting([runs.example(name, 8, prompt=5) for name in range(12)])
    runs.trained_head(runs.config(tmp_path, num_steps=7, num_epochs=1, draft_vocab_size=20), on)
    assert math.isnan(read_metrics(tmp_path / METRICS, "eval")[-1]["overlap"][-1])
    assert (tmp_path / "best" / "model.safetensors").is_file()


def test_all_processes_of_a_run_leave_a_step_out_together(tmp_path):
    """A batch of one process is bad, all of them must skip: else weights differ, or one waits for ever."""
    options = runs.script_flags(tmp_path) | {"output": str(tmp_path / "run"), "learning_rate": 1e30}
    ended = two_processes(runs.TRAIN, tmp_path / "config.yaml", vars(runs.config(**options)))
    assert ended.returncode != 0 and "Traceback" not in ended.stderr.partition("torch/distributed")[0]
    told = [line for line in ended.stderr.splitlines() if line.startswith("error: training diverged at step ")]
    assert len(told) == 2 and len(set(told)) == 1
