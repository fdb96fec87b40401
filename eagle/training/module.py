"""The head as a trainable module: one forward from the target's signals to losses or to measurements.

One forward for everything lets wrappers (distributed data parallel, fully sharded) see every use of the parameters.

Letters: B batch, T positions, J steps, P positions with a loss.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eagle.data.batches import Example, Segments, collate, plan_epoch
from eagle.drafters.head import DraftHead
from eagle.seeds import stable_number
from eagle.training.loss import Coupling, Laws, StepLosses, fused_loss
from eagle.training.metrics import EvaluationSums, Measurements, measure_predictions
from eagle.training.signals import SharedNoise, Signals, SignalSource, random_temperatures
from eagle.training.steps import conversation_at, law_positions, rows_for, unroll
from eagle.training.target_snapshot import OutputLayer
from eagle.training.train_config import Batching, Unrolling


class TrainingTest(nn.Module):
    """`head` unrolled over several steps."""

    def __init__(self, head: DraftHead, unrolling: Unrolling, output: OutputLayer):
        super().__init__()
        self.head = head
        self._unrolling, self._output = unrolling, output
        self._of_draft = output.restricted(head.vocabulary.target_ids)
        self._matmul_dtype = torch.bfloat16 if unrolling.precision == "bf16" else torch.float32

    def forward(self, signals: Signals, at: Tensor, seed: int, measure_only: bool = False) -> StepLosses | Measurements:
        """Losses at the positions `at` (B, T) bool of the target's laws, or measurements of the same predictions.

        seed: of the noise that draft and target share.
        """
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
        noise = SharedNoise(signals.laws, self._output, self.head.vocabulary.target_ids, seed)
        laws = Laws(signals.laws, self._of_draft)
        if measure_only:
            return measure_predictions(rows, self.head.lm_head.weight, laws, exists, noise)
        if unrolling.loss_weights.coupled:
            laws = laws._replace(coupling=Coupling(noise, self._temperature(at, signals.segments, seed)))
        decay = torch.tensor(unrolling.decay, device=rows.device)  # (J,)
        return fused_loss(rows, self.head.lm_head.weight, laws, exists * decay, unrolling.loss_weights)

    @staticmethod
    def _temperature(at: Tensor, segments: Segments, seed: int) -> Tensor:
        """Every position has that of its conversation: (P,)."""
        conversation, count = conversation_at(at, segments)
        return random_temperatures(count, seed, at.device)[conversation]


class HeldOut:
    """The conversations that a run is measured on, in batches."""

    def __init__(self, examples: Sequence[Example], signals: SignalSource, batching: Batching, device: torch.device):
        lengths = [len(example) for example in examples]
        self._batches = plan_epoch(lengths, batching.tokens_per_batch, batching.seed, epoch=0)
        self._examples, self._signals, self._device = examples, signals, device

    @torch.no_grad()
    def measure(self, module: nn.Module, t2d: Tensor, num_batches: int | None = None) -> EvaluationSums:
        """The predictions of `module`, a `TrainingTest` or what wraps one, for all batches or the first few."""
        sums = EvaluationSums(t2d)
        for number, rows in enumerate(self._batches[:num_batches]):
            batch = collate(self._examples, rows).to(self._device)
            at = law_positions(batch.loss_mask)
            noise_seed = stable_number("held out", number)  # the same at every evaluation: runs compare
            measured = module(self._signals.read(batch, at), at, noise_seed, measure_only=True)
            sums.add(measured, at, batch.ids, batch.loss_mask)
        return sums
