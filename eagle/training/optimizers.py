"""Which optimizer moves which weights, and how fast.

    adamw    all of them (EAGLE-3's recipe)
    muon     matrices of the fusion and the layer by Muon (orthogonalised momentum, kellerjordan.github.io/posts/muon),
             whose update is given the size that AdamW's usually has, so that one learning rate serves both; norms and
             the output layer, whose rows are tokens and not directions of one map, stay with AdamW

What was gained by it stands in docs/training.md.
"""

import math

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from torch.optim import AdamW, Optimizer

from eagle.drafters.head import DraftHead
from eagle.training.train_config import Optimization, Schedule

ADAM_BETA1 = 0.9


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
