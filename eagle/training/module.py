"""The head as a trainable module: one forward from the target's signals to losses or to measurements.

One forward for everything lets wrappers (distributed data parallel, fully sharded) see every use of the parameters.

Letters: B batch, T positions, J steps, P positions with a loss.
"""

import torch
from torch import Tensor, nn

from eagle.drafters.head import DraftHead
from eagle.training.loss import Laws, StepLosses, fused_loss
from eagle.training.metrics import Measurements, measure_predictions
from eagle.training.signals import Signals
from eagle.training.steps import rows_for, unroll
from eagle.training.target_snapshot import OutputLayer
from eagle.training.train_config import Unrolling


class TrainingTest(nn.Module):
    """`head` unrolled over several steps."""

    def __init__(self, head: DraftHead, unrolling: Unrolling, output: OutputLayer):
        super().__init__()
        self.head = head
        self._unrolling, self._output = unrolling, output.restricted(head.vocabulary.target_ids)
        self._matmul_dtype = torch.bfloat16 if unrolling.precision == "bf16" else torch.float32

    def forward(self, signals: Signals, at: Tensor, measure_only: bool = False) -> StepLosses | Measurements:
        """Losses at the positions `at` (B, T) bool of the target's laws, or measurements of the same predictions."""
        unrolling = self._unrolling
        outputs = unroll(
            self.head,
            signals.features.to(self._matmul_dtype),
            signals.embeddings.to(self._matmul_dtype),
            unrolling.num_steps,
            gradient_checkpointing=unrolling.gradient_checkpointing and not measure_only,
            segments=signals.segments,
        )
        rows, exists = rows_for(outputs, at, signals.segments)  # (P, J, H), (P, J)
        rows = self.head.normed(rows).to(self._matmul_dtype)
        laws = Laws(signals.laws, self._output)
        if measure_only:
            return measure_predictions(rows, self.head.lm_head.weight, laws, exists, self.head.vocabulary.target_ids)
        decay = torch.tensor(unrolling.decay, device=rows.device)  # (J,)
        return fused_loss(rows, self.head.lm_head.weight, laws, exists * decay, unrolling.loss_weights)
