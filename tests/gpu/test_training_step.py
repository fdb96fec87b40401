"""A training step on an accelerator against the CPU's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eagle.data.batches import collate
from eagle.drafters.head import DraftHead
from eagle.engine.target import Target
from eagle.training.initialise import make_head
from eagle.training.module import TrainingTest
from eagle.training.optimizers import make_optimizers
from eagle.training.signals import OnlineSignals
from eagle.training.steps import law_positions
from eagle.training.target_snapshot import TargetFacts
from eagle.training.trainer import Trainer
from tests.conftest import needs_gpu
from tests.tiny import tiny_head, tiny_target
from tests.training import runs


def step(device: torch.device, precision: str, **changes) -> tuple[float, DraftHead]:
    """Loss and head after one optimizer step of a whole batch."""
    target: Target = tiny_target()
    target.model.to(device)
    head = tiny_head(target).to(device).train()
    config = runs.config(Path("unused"), precision=precision, **changes)
    facts = TargetFacts.of(target)
    module = TrainingTest(head, config.unrolling, facts.output_layer)
    batch = collate(runs.examples(6), range(6), config.packing).to(device)
    at = law_positions(batch.loss_mask)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        losses = module(OnlineSignals(target, facts.output_layer).read(batch, at), at, 3)
    (losses.total / at.sum()).backward()
    for optimizer in make_optimizers(head, config.optimization):
        optimizer.step()
    return float(losses.total.detach() / at.sum()), head


@needs_gpu
@pytest.mark.parametrize(
    "changes", [{}, {"packing": True}, {"gradient_checkpointing": True}, {"loss_log_overlap": 1.0}]
)
def test_loss_and_gradients_are_those_of_the_cpu(accelerator, changes):
    """Float32 without TF32 (torch's default): to 1e-4 of each gradient's size, sums in another order."""
    (expected, here), (found, there) = (step(device, "no", **changes) for device in (torch.device("cpu"), accelerator))
    assert found == pytest.approx(expected, rel=1e-5)
    for (name, one), other in zip(here.named_parameters(), there.parameters(), strict=True):
        assert float((other.grad.cpu() - one.grad).abs().max()) <= 1e-4 * float(one.grad.abs().max()), name


@needs_gpu
def test_in_bfloat16_the_loss_is_near(accelerator):
    """To 2 %: numbers of 8 bits, summed over 32 of them."""
    expected, found = step(torch.device("cpu"), "no")[0], step(accelerator, "bf16")[0]
    assert found == pytest.approx(expected, rel=0.02)


@needs_gpu
def test_a_run_trains_there_and_resumes(accelerator, tmp_path):
    """Two of four steps, then a new trainer: the state is found, and predictions are no worse for two steps more."""
    on = runs.setting()
    on.target.model.to(accelerator)
    there = replace(on, facts=TargetFacts.of(on.target))
    config = runs.config(tmp_path, max_steps=4, precision="bf16")

    def trainer() -> Trainer:
        head = make_head(config.initialisation, there.facts, there.target, there.examples)
        return runs.trainer(config, there, head.to(accelerator))

    first, second = trainer().run(stop_after=2), trainer()
    assert second.progress.step == 2
    assert second.run().mean_overlap >= first.mean_overlap - 0.05
