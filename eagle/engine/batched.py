"""Batched decoding: the target writes many conversations at a time, used to regenerate the answers of training data.

Continuous batching: a fixed number of lanes advances together, one token a step; a lane whose conversation ended takes
the next one from the queue. Every conversation has its own generator, so its draws do not depend on its neighbours.
A head is only useful on text that its target would write: hence the answers of the training conversations are replaced
by the target's own.

SmolLM2-135M in bf16 on two Zen 4 cores, 96 lanes of answers up to 250 tokens: 450 tokens a second in steps, 380 with
the prompts read (stock ``generate``: 195). On a busy machine use a process a core with one thread each: two threads
wait for each other at every operation, and one that lost its core stops both.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from eagle.engine.cache import cache_argument
from eagle.engine.lanes import BLOCK, LaneCache, PromptView, StepView, check_rope, lanes_in
from eagle.engine.masks import additive, by_kind, in_sight
from eagle.engine.shape import attention_shape
from eagle.engine.suitability import TOLERANCE, first_line, spread_apart
from hsd_verify.draw import draw_indices

PROMPT_BLOCK = 32
TRIAL = 12  # tokens of the text that is tried at the start
HALF_TOLERANCE = 0.5  # of its logits' spread in half precision: SmolLM2 in bfloat16 differs by 0.19, a wrong mask by 1
DRAW_ROWS = 8  # drawn together: their laws stay in a cache, those of all lanes would be a third of a step's time


@dataclass(frozen=True)
class Job:
    """A conversation to answer: token runs that come before each answer, and how to draw."""

    id: str
    runs: tuple[tuple[int, ...], ...]  # runs[0] the prompt; runs[i] from the end of answer i-1 to the next answer
    temperature: float
    seed: int


@dataclass
class Answered:
    """What became of a job; grows while its lane is at work."""

    job: Job
    input_ids: list[int]
    spans: list[tuple[int, int]] = field(default_factory=list)  # [start, end) of each answer in input_ids
    finish: list[str] = field(default_factory=list)  # "stop" or "length", one an answer
    refused: str = ""  # why there is no next answer, where a server was asked


@dataclass(frozen=True)
class AnswerLimits:
    max_new_tokens: int  # an answer that reaches it is cut and ends its conversation
    max_length: int  # of a whole conversation


class Lane:
    """A conversation at work: which tokens it has, and where its current answer began."""

    def __init__(self, job: Job):
        self.result = Answered(job, list(job.runs[0]))
        self.answer_start = len(job.runs[0])
        self.generator = torch.Generator().manual_seed(job.seed)

    def push(self, token: int, end_ids: frozenset[int], limits: AnswerLimits) -> str:
        """Append a token; "more" while the answer goes on, "turn" when a new run follows, "done" at the end."""
        ids = self.result.input_ids
        ids.append(token)
        full = len(ids) - self.answer_start >= limits.max_new_tokens or len(ids) >= limits.max_length
        if token not in end_ids and not full:
            return "more"
        self.result.spans.append((self.answer_start, len(ids)))
        self.result.finish.append("stop" if token in end_ids else "length")
        return self._next_turn(limits, token) if token in end_ids else "done"

    def _next_turn(self, limits: AnswerLimits, ended_by: int) -> str:
        turn, runs = len(self.result.spans), self.result.job.runs
        if turn >= len(runs):
            return "done"
        run = runs[turn][1:] if runs[turn][0] == ended_by else runs[turn]  # the template's own end of turn
        if len(self.result.input_ids) + len(run) + 1 > limits.max_length:
            return "done"
        self.result.input_ids.extend(run)
        self.answer_start = len(self.result.input_ids)
        return "turn"


class BatchedDecoder:
    """Continuous batching over ``num_lanes`` lanes of one target; ``answer`` is the only verb."""

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: Iterable[int],
        limits: AnswerLimits,
        num_lanes: int = 96,
        group_size: int = 12,
    ):
        config = model.config.get_text_config()
        check_rope(config, limits.max_length)
        self._shape = attention_shape(config)
        self.model, self.end_ids, self.limits = model.eval(), frozenset(end_ids), limits
        self._cache_argument = cache_argument(model)
        self.cache = LaneCache(config.num_hidden_layers, num_lanes, group_size, model.device)
        self.lanes: list[Lane | None] = [None] * num_lanes
        self._try_out(config.vocab_size)

    @torch.inference_mode()
    def _try_out(self, vocab_size: int) -> None:
        """Raises ValueError unless a token in a lane gets the logits that it gets behind the same text alone."""
        ids = torch.arange(TRIAL, device=self.model.device) * 7 % vocab_size
        try:
            with lanes_in(self.model):
                self._prefill(0, ids[:-1].tolist())
                got = self._step_logits(ids[-1:].expand(len(self.lanes)))[:1]  # (1, V)
            wanted = self.model(ids[None], use_cache=False).logits[:, -1]
        except Exception as error:  # whatever a foreign model raises: it is the answer
            raise ValueError(f"{self._refused} ({type(error).__name__}: {first_line(error)})") from error
        finally:
            self.cache.lengths.zero_()
        tolerance = TOLERANCE.get(got.dtype, HALF_TOLERANCE)
        if bool(wanted.isfinite().all()) and spread_apart(got, wanted) > tolerance:
            raise ValueError(f"{self._refused} (other logits than the same text alone)")

    @property
    def _refused(self) -> str:
        return (
            f"{type(self.model).__name__} cannot answer many conversations side by side, which regenerating needs: "
            "prepare with `answers: original`, from answers that the target itself wrote elsewhere"
        )

    @torch.inference_mode()
    def answer(self, jobs: Iterable[Job]) -> Iterator[Answered]:
        """Yield each job once, answered, in the order in which they end."""
        waiting, steps = iter(jobs), 0
        with lanes_in(self.model):
            yield from self._fill(waiting)
            while any(self.lanes):
                if steps % BLOCK == 0:
                    self.lanes = [self.lanes[old] for old in self.cache.regroup()]
                yield from self._step()
                yield from self._fill(waiting)
                steps += 1

    def _fill(self, waiting: Iterator[Job]) -> Iterator[Answered]:
        for index, lane in enumerate(self.lanes):
            while lane is None and (job := next(waiting, None)) is not None:
                self.lanes[index], self.cache.lengths[index] = Lane(job), 0
                yield from self._read(index)
                lane = self.lanes[index]

    def _read(self, index: int) -> Iterator[Answered]:
        """Read what the lane's cache does not hold yet, until an answer is under way or the conversation ended."""
        state = "turn"
        while state == "turn":
            lane = self._busy(index)
            logits = self._prefill(index, lane.result.input_ids)  # (1, V)
            state = lane.push(draw_tokens([lane], logits)[0], self.end_ids, self.limits)
        if state == "done":
            yield self._release(index)

    def _release(self, index: int) -> Answered:
        result = self._busy(index).result
        self.lanes[index], self.cache.lengths[index] = None, 0
        return result

    def _busy(self, index: int) -> Lane:
        lane = self.lanes[index]
        assert lane is not None, f"lane {index} has no conversation"
        return lane

    def _prefill(self, index: int, ids: list[int]) -> torch.Tensor:
        start = int(self.cache.lengths[index])
        padded = ids[start:] + [0] * (-(len(ids) - start) % PROMPT_BLOCK)  # few shapes: kernels are compiled for each
        self.cache.reserve(index, start + len(padded))
        tokens = torch.tensor([padded], device=self.model.device)  # (1, n)
        positions = torch.arange(start, start + len(padded), device=self.model.device)  # (n,)
        view = PromptView(self.cache, index, start)
        logits = self._forward(tokens, positions[None], start + len(padded), view, last=len(ids) - start - 1)
        self.cache.lengths[index] = len(ids)
        return logits

    def _step(self) -> Iterator[Answered]:
        """One token for every lane; idle lanes run along on a dummy token that is dropped."""
        lengths = self.cache.lengths
        for index, lane in enumerate(self.lanes):
            if lane is not None:
                self.cache.reserve(index, len(lane.result.input_ids))
        tokens = torch.tensor([lane.result.input_ids[-1] if lane else 0 for lane in self.lanes])
        yield from self._advance(self._step_logits(tokens.to(lengths.device)))

    def _step_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (B, V) after one token a lane, tokens (B,)."""
        lengths = self.cache.lengths
        view = StepView(self.cache, torch.split(lengths, self.cache.group_size))
        return self._forward(tokens[:, None], lengths[:, None], max(self.cache.capacities), view)

    def _advance(self, logits: torch.Tensor) -> Iterator[Answered]:
        busy = [index for index, lane in enumerate(self.lanes) if lane is not None]
        self.cache.lengths[busy] += 1
        at_work = logits if len(busy) == len(self.lanes) else logits[busy]
        tokens = draw_tokens([self._busy(index) for index in busy], at_work)
        for index, token in zip(busy, tokens, strict=True):
            state = self._busy(index).push(token, self.end_ids, self.limits)
            if state == "turn":
                yield from self._read(index)
            elif state == "done":
                yield self._release(index)

    def _forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        num_columns: int,
        view: PromptView | StepView,
        last: int = 0,
    ) -> torch.Tensor:
        """Logits after column ``last`` of each row, (B, V); column i of a lane holds its position i."""
        keys, queries = torch.arange(num_columns, device=positions.device), positions[:, None, :, None]  # (B, 1, n, 1)

        def mask(**sight: int) -> torch.Tensor:
            return additive((keys <= queries) & in_sight(queries, keys, **sight), self.model.dtype)  # (B, 1, n, C)

        output = self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=by_kind(self._shape, mask),
            logits_to_keep=torch.tensor([last], device=tokens.device),  # the head is a fifth of a small model's work
            **{self._cache_argument: view},
        )
        logits: torch.Tensor = output.logits
        return logits[:, 0]


def draw_tokens(lanes: list[Lane], logits: torch.Tensor) -> list[int]:
    """One token a row at the row's own temperature, from the row's own generator."""
    temperatures = torch.tensor([lane.result.job.temperature for lane in lanes], device=logits.device)  # (B,)
    warm, cold = (temperatures > 0).nonzero()[:, 0], (temperatures == 0).nonzero()[:, 0]
    tokens = torch.empty(len(lanes), dtype=torch.long, device=logits.device)
    tokens[cold] = logits[cold].argmax(dim=-1)
    at_once = DRAW_ROWS if logits.is_cpu else len(lanes)  # an accelerator would wait for every block
    for start in range(0, len(warm), at_once):
        rows = warm[start : start + at_once]
        uniforms = torch.stack([torch.rand((), generator=lanes[row].generator) for row in rows.tolist()])
        laws = torch.softmax(logits[rows].float() / temperatures[rows, None], dim=-1)  # (C, V)
        tokens[rows] = draw_indices(laws, uniforms.to(logits.device))
    return tokens.tolist()
