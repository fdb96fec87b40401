"""What training is computed to take, against models and heads that are built, and what autograd keeps of them."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from eagle.cli import estimate as command
from eagle.drafters.head import DraftHead
from eagle.engine.shape import attention_shape, feed_forward_size
from eagle.estimates import HEAD_BYTES, Estimate, EstimateOptions, estimate
from eagle.training.loss import LossWeights, fused_loss
from eagle.training.steps import rows_for, unroll
from evaluation.bench import training_step
from tests.tiny import HEAD_SIZES, tiny_head, tiny_target
from tests.training.runs import save_target


@pytest.mark.parametrize(("name", "parameters"), [("llama-3.1-8b", 8_030_261_248), ("llama-3.3-70b", 70_553_706_496)])
def test_known_targets_have_their_published_sizes(name, parameters):
    assert estimate(EstimateOptions(target=name)).target_parameters == parameters


def test_the_head_is_counted_as_the_page_says():
    """layer = 2H H + 2 2H K + H H + 3 H I, fc = 3 H H, lm_head = H Vd, and four norms."""
    hidden, width, keys = 4096, 14336, 1024
    layer = 2 * hidden**2 + 4 * hidden * keys + hidden**2 + 3 * hidden * width
    head = layer + 3 * hidden**2 + hidden * 32000 + 4 * hidden
    assert estimate(EstimateOptions(target="llama-3.1-8b")).head_parameters == head


def test_a_directory_is_read_by_its_configuration_alone(tmp_path):
    target = save_target(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    found = estimate(EstimateOptions(target=str(tmp_path), draft_vocab_size=50))
    assert found.target_parameters == sum(weight.numel() for weight in target.model.parameters())


def test_flops_are_twice_the_products_of_a_pass(tmp_path):
    """Counted by torch on one text. It does not count a CPU's attention kernel, and norms are no products."""
    target = save_target(tmp_path)
    found = estimate(EstimateOptions(target=str(tmp_path), length=64, draft_vocab_size=50))
    with FlopCounterMode(display=False) as counter:
        target.read(torch.zeros(1, 64, dtype=torch.int64))
    shape = attention_shape(target.config)
    attention = 2 * shape.num_heads * shape.head_dim * 64 * len(target.layers)
    norms = 2 * sum(weight.numel() for weight in target.layers.parameters() if weight.ndim == 1)
    assert counter.get_total_flops() / 64 == pytest.approx(found.target_flops - attention - norms, rel=1e-9)


def kept_bytes(head: DraftHead, problem: training_step.Problem, checkpointing: bool) -> int:
    """What autograd keeps of a step for the backward pass, beside parameters and inputs."""
    given = [*head.parameters(), problem.features, problem.embeddings]
    known, kept = {tensor.untyped_storage().data_ptr() for tensor in given}, dict[int, Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        outputs = unroll(
            head, problem.features, problem.embeddings, training_step.STEPS, gradient_checkpointing=checkpointing
        )
        rows = head.normed(rows_for(outputs, problem.at)[0]).to(torch.bfloat16)
        fused_loss(rows, head.lm_head.weight, problem.laws, problem.scale, LossWeights(1.0))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_autograd_keeps(checkpointing, monkeypatch):
    """Within 10 %: the formula leaves out what does not grow with a width. With checkpointing neither the copies of
    the weights nor the inside of a step are kept: the formula's one whole step is made again later."""
    target = tiny_target(hidden_size=128, intermediate_size=384, vocab_size=256)
    head = tiny_head(target, draft_vocab_size=64)
    monkeypatch.setattr(training_step, "SHAPE", head.config)
    problem = training_step.make_problem(1, 128, torch.bfloat16)
    target.config.update({"hidden_size": 128, **HEAD_SIZES})
    options = (EstimateOptions(draft_vocab_size=64, gradient_checkpointing=given) for given in (False, True))
    whole, checkpointed = (Estimate(target.config, one).activation_bytes for one in options)
    copies = HEAD_BYTES["bfloat16 copies"] * sum(weight.numel() for weight in head.parameters())
    expected = 128 * (checkpointed - whole / training_step.STEPS) if checkpointing else 128 * whole + copies
    assert kept_bytes(problem.head, problem, checkpointing) == pytest.approx(expected, rel=0.1)


def test_dividing_saves_what_is_divided():
    alone, shared = (
        estimate(EstimateOptions(target="llama-3.3-70b", shard_target=given)).memory for given in (False, True)
    )
    assert shared["target's layers"] == pytest.approx(alone["target's layers"] / 8)
    assert sum(alone.values()) > 140e9 > 80e9 > sum(shared.values())
    stored = estimate(EstimateOptions(target="llama-3.3-70b", stored_features=True)).memory
    assert "target's layers" not in stored
    one, eight = (estimate(EstimateOptions(target="llama-3.1-8b", num_gpus=count)) for count in (1, 8))
    assert one.hours == pytest.approx(8 * eight.hours)


def test_the_command_says_that_it_computes(capsys):
    command.main(["--target", "llama-3.1-8b", "--gpu-gb", "24"])
    told = capsys.readouterr().out
    assert told.startswith("computed, not measured:") and "does not fit into 24 GB" in told
    assert feed_forward_size(estimate(EstimateOptions(target="llama-3.1-8b")).config) == 14336
