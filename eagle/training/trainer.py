"""The training loop: batches in a planned order, one optimizer step at a time, on one process or many.

A step's loss is the sum over all its positions, in all batches and processes, divided by their number; it therefore
does not depend on how conversations are divided among batches and processes, nor on padding.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from eagle.checkpoints.card import HeadCard, write_card
from eagle.checkpoints.flat import save_head
from eagle.data.batches import Batch, Example, collate, plan_epoch
from eagle.drafters.head import DraftHead
from eagle.engine.target import Target
from eagle.files import naming
from eagle.training.conditioning import condition, unconditioned, unit_hidden, usual_size
from eagle.training.log import RunLog
from eagle.training.loss import StepLosses
from eagle.training.metrics import Evaluation
from eagle.training.module import HeldOut, TrainingTest
from eagle.training.optimizers import (
    Diverged,
    StepGuard,
    check_optimizer,
    everywhere,
    first_not_finite,
    learning_rate,
    make_optimizers,
    set_learning_rate,
)
from eagle.training.resume import States
from eagle.training.signals import OwnEmbeddings, Signals, SignalSource
from eagle.training.steps import choose_positions, law_positions
from eagle.training.target_snapshot import TargetFacts
from eagle.training.train_config import Batching, TrainConfig

EXPORT_DTYPE = torch.bfloat16
HEAD = "head."  # in the names of a module's state
SEEDS = 2**63  # torch takes no larger ones


@dataclass(frozen=True, eq=False)
class Material:
    """What a run works on, loaded: the target or what is stored of it, and the conversations."""

    target: Target | None  # None where only stored features are read
    facts: TargetFacts
    examples: list[Example]
    held_out: list[Example]


def plan_steps(batching: Batching, lengths: Sequence[int]) -> list[list[tuple[int, ...]]]:
    """The batches of every optimizer step of the whole run, `batches_per_step` each, as example numbers.

    Batches left over behind whole steps are dropped: a process without one would leave the others waiting for it.
    """
    batches: list[tuple[int, ...]] = []
    size, last = batching.batches_per_step, batching.max_steps or math.inf
    for epoch in range(math.ceil(batching.num_epochs)):
        if len(batches) >= last * size:
            break
        planned = plan_epoch(lengths, batching.tokens_per_batch, batching.seed, epoch, batching.packing)
        batches += planned[: math.ceil(len(planned) * min(batching.num_epochs - epoch, 1.0))]
    steps = [batches[start : start + size] for start in range(0, len(batches), size)]
    if len(steps) > 1 and len(steps[-1]) < size:
        steps.pop()
    return steps[: batching.max_steps]


@dataclass(frozen=True, eq=False)
class _Done:
    """What an optimizer step did."""

    losses: list[StepLosses]  # of this process's batches
    num_tokens: int  # of this process's conversations
    num_positions: float  # with a loss, of all processes
    learning_rate: float
    gradient_norm: float
    elapsed_s: float


class Trainer:
    """Trains `head` on the conversations of `material`, with `signals` of its target."""

    def __init__(
        self,
        config: TrainConfig,
        head: DraftHead,
        signals: SignalSource,
        material: Material,
        accelerator: Accelerator,
    ):
        check_optimizer(config.optimizer, accelerator)
        self.accelerator = accelerator
        self._batching, self._chance, self._schedule = config.batching, config.chance, config.schedule
        self._intervals, self._clip_norm, self._output = config.intervals, config.clip_norm, Path(config.output)
        self._draws_noise = config.loss_coupled > 0
        self._signals = signals if head.embed_tokens is None else OwnEmbeddings(signals, head.embed_tokens.weight)
        self._examples = material.examples
        self._held_out = HeldOut(material.held_out, self._signals, config.batching, accelerator.device)
        self._plan = self._check_plan(plan_steps(self._batching, [len(example) for example in material.examples]))
        if config.condition_features:
            self._condition(head, is_fresh=config.initial_head is None)
        module = TrainingTest(head, config.unrolling, material.facts.output_layer)
        self._module, *self._optimizers = accelerator.prepare(module, *make_optimizers(head, config.optimization))
        self._target_name = material.facts.sizes.name
        self._trained_length = max(head.trained_length or 0, *map(len, material.examples))
        self._states = States(self._output, accelerator, config.keep_states, self._module, self._optimizers)
        self._guard = StepGuard(accelerator)
        self.progress = self._states.restore()
        self._sound_step = -1  # whose weights predicted nothing but finite numbers

    def _check_plan(self, plan: list[list[tuple[int, ...]]]) -> list[list[tuple[int, ...]]]:
        """Raises ValueError for a run without a step, and for steps that cannot be divided among the processes."""
        if not plan:
            raise ValueError("there is no conversation to train on: prepare more, or hold out fewer")
        if any(len(step) % self.accelerator.num_processes for step in plan):
            raise ValueError(
                f"steps have {len(plan[0])} batches, they need a multiple of the {self.accelerator.num_processes} "
                "processes: every one gets as many; change batches_per_step, or train on more data"
            )
        return plan

    def _condition(self, head: DraftHead, is_fresh: bool) -> None:
        """Measure the features of the first batch; a resumed run gets the scale it began with from its state."""
        batch = collate(self._examples, self._plan[0][0], self._batching.packing).to(self.accelerator.device)
        at = law_positions(batch.loss_mask)
        scale = usual_size(head.conditioned(self._signals.read(batch, at).features[at]).detach())
        if is_fresh:
            unit_hidden(head, scale)
        condition(head, scale)

    @property
    def num_steps(self) -> int:
        return len(self._plan)

    def run(self, stop_after: int | None = None) -> Evaluation:
        """Train to the end of the plan, or until `stop_after` optimizer steps are done in all.

        Raises Diverged when the weights are lost; what was saved before stays as it is.
        """
        intervals, progress = self._intervals, self.progress
        last = min(self.num_steps, stop_after or self.num_steps)
        log = RunLog(self._output, progress.step, self.num_steps, self.accelerator.is_main_process)
        try:
            evaluation = self._evaluate(log, must_be_finite=True)
            while progress.step < last:
                self._train_step(log)
                at_end = progress.step == last
                if at_end or progress.step % intervals.evaluate_every == 0:
                    evaluation = self._evaluate(log, must_be_finite=at_end)
                if at_end or progress.step % intervals.save_every == 0:
                    self._save(log)
            return evaluation
        finally:
            log.close()

    def _train_step(self, log: RunLog) -> None:
        started, progress = time.perf_counter(), self.progress
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        mine = list(enumerate(self._plan[progress.step]))[rank::world]
        packing = self._batching.packing
        batches = [self._positions(collate(self._examples, rows, packing), index) for index, rows in mine]
        count = self._total(sum(int(at.sum()) for _, at, _ in batches))
        set_learning_rate(self._optimizers, rate := learning_rate(self._schedule, progress.step, self.num_steps))
        losses = [self._backward(*batch, count, last=i == len(batches) - 1) for i, batch in enumerate(batches)]
        norm = float(self.accelerator.clip_grad_norm_(self._module.parameters(), self._clip_norm))
        self._move(log, norm, sum(float(loss.total) for loss in losses), rate)
        tokens = sum(len(self._examples[row]) for _, rows in mine for row in rows)
        self._account(log, _Done(losses, tokens, count, rate, norm, time.perf_counter() - started))

    def _move(self, log: RunLog, norm: float, loss: float, rate: float) -> None:
        """Take the optimizer's step, or leave it out where something is not finite."""
        if self._guard.allows(norm, loss):
            for optimizer in self._optimizers:
                optimizer.step()
        else:
            self.progress.skipped_steps += 1
            log.say(f"step {self.progress.step + 1}: gradient norm {norm:g}, loss {loss:g}: left out")
        if self._guard.is_exhausted:
            told = f"gradient norm {norm:g}, loss {loss:g}, {self._guard.in_a_row} steps in a row were left out"
            raise self._diverged(self.progress.step + 1, told)
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    def _diverged(self, step: int, told: str) -> Diverged:
        what = first_not_finite(self._module) or "all weights are finite, what they compute is not"
        return Diverged(step, f"{told}; {what}", learning_rate(self._schedule, max(step - 1, 0), self.num_steps))

    def _positions(self, batch: Batch, index: int) -> tuple[Batch, Tensor, int]:
        """The batch, its positions with a loss (B, T), and the seed of what chance decides there."""
        batch = batch.to(self.accelerator.device)
        seed = ((self._chance.seed << 40) + (self.progress.step << 10) + index) % SEEDS
        return batch, choose_positions(batch.loss_mask, self._chance.loss_fraction, seed), seed

    def _total(self, value: float) -> float:
        """A number summed over all processes."""
        return float(self.accelerator.reduce(torch.tensor(float(value), device=self.accelerator.device)))

    def _backward(self, batch: Batch, at: Tensor, seed: int, count: float, last: bool) -> StepLosses:
        signals = self._noisy(self._signals.read(batch, at))
        scale = self.accelerator.num_processes / max(count, 1.0)  # gradients are averaged over processes
        if last:
            losses = self._module(signals, at, seed)
            self.accelerator.backward(losses.total * scale)
        else:
            with self.accelerator.no_sync(self._module):
                losses = self._module(signals, at, seed)
                self.accelerator.backward(losses.total * scale)
        return StepLosses(*(value.detach() for value in losses))

    def _noisy(self, signals: Signals) -> Signals:
        if not self._chance.feature_noise:
            return signals
        generator = torch.Generator(signals.features.device).manual_seed(self.progress.step)
        noise = torch.empty_like(signals.features).uniform_(-1, 1, generator=generator)
        return signals._replace(features=signals.features + self._chance.feature_noise * noise)

    def _account(self, log: RunLog, done: _Done) -> None:
        """Move on by a step and, at intervals, write down how it went."""
        progress = self.progress
        tokens = self._total(done.num_tokens)
        progress.step += 1
        progress.tokens_seen += int(tokens)
        progress.loss_tokens_seen += int(done.num_positions)
        progress.elapsed_s += done.elapsed_s
        log.advance(progress.step)
        if progress.step % self._intervals.log_every and progress.step > 1:
            return
        stacked = StepLosses(*(torch.stack(values).sum(0).float() for values in zip(*done.losses, strict=True)))
        total = StepLosses(*(self.accelerator.reduce(value) for value in stacked))
        log.record("train", progress.step, {
            "loss": float(total.total) / max(done.num_positions, 1.0),
            "step_loss": (total.loss / total.positions.clamp_min(1)).tolist(),
            "overlap": (total.overlap / total.positions.clamp_min(1)).tolist(),
            **self._coupled(total),
            "learning_rate": done.learning_rate,
            "gradient_norm": done.gradient_norm,
            "skipped_steps": progress.skipped_steps,
            "tokens_seen": progress.tokens_seen,
            "loss_tokens_seen": progress.loss_tokens_seen,
            "tokens_per_s": tokens / done.elapsed_s,
            "elapsed_s": progress.elapsed_s,
        })  # fmt: skip

    def _coupled(self, total: StepLosses) -> dict[str, list[float]]:
        """Agreement under shared noise at random temperatures, where the loss draws it."""
        if not self._draws_noise:
            return {}
        return {"coupled_agreement": (total.agreement / total.positions.clamp_min(1)).tolist()}

    def _evaluate(self, log: RunLog, must_be_finite: bool) -> Evaluation:
        """Measure the held-out conversations; export the head when it is the best so far.

        Raises Diverged where predictions are not finite and have to be.
        """
        sums, progress = self._held_out.measure(self._module, self._head.t2d), self.progress
        evaluation = sums.result()
        log.record("eval", progress.step, {**asdict(evaluation), "tokens_seen": progress.tokens_seen})
        log.say(f"step {progress.step}: {evaluation}")
        if everywhere(sums.are_finite, self.accelerator):
            self._sound_step = progress.step
            self._keep_best(evaluation)
        elif must_be_finite:
            raise self._diverged(progress.step, "predictions for the held-out conversations are not finite")
        return evaluation

    def _keep_best(self, evaluation: Evaluation) -> None:
        progress = self.progress
        overlap = self._total(evaluation.mean_overlap) / self.accelerator.num_processes  # the same number everywhere
        if overlap > progress.best_overlap:
            progress.best_overlap, progress.best_step = overlap, progress.step
            self._export("best")

    @property
    def _head(self) -> DraftHead:
        head: DraftHead = self.accelerator.unwrap_model(self._module).head
        return head

    def _export(self, name: str) -> None:
        """Write the head. Called by all processes together: each may hold a part of it only."""
        state = self.accelerator.get_state_dict(self._module)  # whole on the main process
        if self.accelerator.is_main_process:
            of_head = {key.removeprefix(HEAD): value for key, value in state.items() if key.startswith(HEAD)}
            with naming(self._output / name):
                save_head(unconditioned(self._head, of_head), self._output / name, EXPORT_DTYPE)
                write_card(self._output / name, self._card())

    def _card(self) -> HeadCard:
        progress = self.progress
        return HeadCard(
            target=self._target_name,
            trained_length=self._trained_length,
            num_conversations=len(self._examples),
            tokens_seen=progress.tokens_seen,
            step=progress.step,
            held_out_overlap=progress.best_overlap,
        )

    def _save(self, log: RunLog) -> None:
        """Write the last head and a state, of weights that are finite and compute something finite."""
        if self._is_sound():
            self._export("last")
            self._states.save(self.progress)
        else:
            log.say(f"step {self.progress.step}: the head is not finite, it is not saved")

    def _is_sound(self) -> bool:
        """A step of 1e30 leaves finite weights that compute nan: a few predictions are made, unless just evaluated."""
        finite = first_not_finite(self._module) is None
        if self._sound_step != self.progress.step:
            finite &= self._held_out.measure(self._module, self._head.t2d, num_batches=1).are_finite
        return everywhere(finite, self.accelerator)
