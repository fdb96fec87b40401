"""Which optimizer moves which weights, and how fast.

    adamw    all of them (EAGLE-3's recipe)
    muon     matrices of the fusion and the layer by Muon (orthogonalised momentum, kellerjordan.github.io/posts/muon),
             whose update is given the size that AdamW's usually has, so that one learning rate serves both; norms and
             the output layer, whose rows are tokens and not directions of one map, stay with AdamW

What was gained by it stands in docs/training.md. A step whose gradient or loss is not finite is left out.
"""

import math
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from eagle.drafters.head import DraftHead
from eagle.training.train_config import Optimization, Schedule

ADAM_BETA1 = 0.9
PATIENCE = 3  # steps left out in a row: one batch may overflow, several different ones mean that the weights are lost


def make_optimizers(head: DraftHead, optimization: Optimization) -> list[Optimizer]:
    """The optimizers that together move every weight of the head once."""
    matrices = hidden_matrices(head) if optimization.optimizer == "muon" else []
    taken = {id(weight) for weight in matrices}
    rest = [weight for weight in head.parameters() if id(weight) not in taken]
    betas = (ADAM_BETA1, optimization.adam_beta2)
    weight_decay = optimization.weight_decay
    optimizers: list[Optimizer] = [AdamW(rest, betas=betas, weight_decay=weight_decay, fused=True)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def check_optimizer(optimizer: str, accelerator: Accelerator) -> None:
    """Raises ValueError where this torch has no Muon, and where processes hold parts of what it needs whole."""
    if optimizer == "muon" and "Muon" not in dir(torch.optim):
        raise ValueError(f"optimizer 'muon' came with torch 2.9, this is {torch.__version__}: use 'adamw', or upgrade")
    if optimizer == "muon" and accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError("optimizer 'muon' needs whole matrices, and FSDP divides them: use 'adamw', or plain DDP")


def hidden_matrices(head: DraftHead) -> list[Tensor]:
    """The matrices between hidden states: all of the head's but its output layer."""
    return [weight for weight in head.parameters() if weight.ndim == 2 and weight is not head.lm_head.weight]


def learning_rate(schedule: Schedule, step: int, num_steps: int) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate` of the peak at the last step."""
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(num_steps - 1 - schedule.warmup_steps, 1)
    cosine = (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return schedule.learning_rate * (schedule.final_learning_rate + (1 - schedule.final_learning_rate) * cosine)


def set_learning_rate(optimizers: Sequence[Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


class Diverged(ValueError):
    """The weights of a run are lost; what was saved before is not."""

    def __init__(self, step: int, what: str, rate: float):
        super().__init__(
            f"training diverged at step {step} (learning rate {rate:g}): {what}. What was saved before is kept; "
            "lower learning_rate, raise warmup_steps or lower clip_norm, and give another output, with best/ of this "
            "one as initial_head"
        )


class StepGuard:
    """Leaves out steps whose gradient norm or loss is not finite, in all processes or in none."""

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        self.in_a_row = 0  # steps left out since the last one that was taken

    def allows(self, norm: float, loss: float) -> bool:
        """Called by all processes together, before the step. `loss` is this process's own part."""
        finite = math.isfinite(norm) and math.isfinite(loss)
        self.in_a_row = 0 if everywhere(finite, self._accelerator) else self.in_a_row + 1
        return not self.in_a_row

    @property
    def is_exhausted(self) -> bool:
        return self.in_a_row >= PATIENCE


def everywhere(holds: bool, accelerator: Accelerator) -> bool:
    """Whether something holds in every process; called by all of them."""
    failed = torch.tensor(float(not holds), device=accelerator.device)
    return not float(accelerator.reduce(failed))


def first_not_finite(module: nn.Module) -> str | None:
    """What of which parameter is not finite: values before gradients, in the order of the layers."""
    for name, parameter in module.named_parameters():
        if not _is_finite(parameter):
            return f"{_plain(name)} is not finite"
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not _is_finite(parameter.grad):
            return f"the gradient of {_plain(name)} is not finite"
    return None


def _is_finite(tensor: Tensor) -> bool:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # of a sharded one this process's part
    return bool(local.isfinite().all())


def _plain(name: str) -> str:
    """A parameter's name as in the checkpoint, without what wraps the head in training."""
    kept = name.replace(".parametrizations.weight.original", ".weight").split(".")
    return ".".join(part for part in kept if part not in ("module", "head"))
