"""Measure the head's training step against a plain implementation of the same loss: tokens/s and peak memory.

    eagle-hsd bench training --length 512 2048
    eagle-hsd bench training --length 512 --threads 1 --dtype float32

"plain" writes attention scores of (T, T + j) and the laws of all positions out and leaves the rest to autograd;
"ours" is what training runs. Both get the same random features and laws, sized as SmolLM2-135M, and their losses are
compared. Each variant runs in a process of its own: its peak is the process's largest resident size less the one
before the first step. CPU time is given beside wall time, because a busy machine spoils the latter.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eagle.drafters.head import DraftHead, HeadConfig
from eagle.options import CommandParser, check_options, option
from eagle.training.loss import Laws, LossWeights, fused_loss, reference_loss
from eagle.training.signals import LawStates
from eagle.training.steps import rows_for, unroll
from eagle.training.target_snapshot import OutputLayer

DTYPES = ("bfloat16", "float32")
VARIANTS = ("plain", "ours")
SHAPE = HeadConfig(576, 576, 1536, 9, 3, 64, 49152, 8192, (2, 15, 27))
STEPS, SEED, REPEATS = 4, 0, 3
MOST_TOKENS = 1 << 17


@dataclass(frozen=True)
class Problem:
    """One batch: B conversations of T tokens, laws at all positions but the last."""

    head: DraftHead
    features: Tensor  # (B, T, 3H)
    embeddings: Tensor  # (B, T, H)
    at: Tensor  # (B, T)
    laws: Laws
    scale: Tensor  # (P, J)


def make_problem(batch: int, length: int, dtype: torch.dtype) -> Problem:
    generator = torch.Generator().manual_seed(SEED)
    head = DraftHead(SHAPE).init_weights(generator)
    output = OutputLayer(torch.randn(SHAPE.vocab_size, SHAPE.hidden_size, generator=generator, dtype=dtype) * 0.1)
    at = torch.ones(batch, length, dtype=torch.bool)
    at[:, -1] = False
    states = torch.randn(int(at.sum()), SHAPE.hidden_size, generator=generator, dtype=dtype)
    laws = Laws(LawStates(states, *output.summary(states)), output.restricted(head.vocabulary.target_ids))
    features = torch.randn(batch, length, 3 * SHAPE.target_hidden_size, generator=generator, dtype=dtype)
    embeddings = torch.randn(batch, length, SHAPE.hidden_size, generator=generator, dtype=dtype)
    exists = rows_for([embeddings] * STEPS, at)[1]
    decay = torch.tensor([0.8**step for step in range(STEPS)])
    return Problem(head, features, embeddings, at, laws, exists * decay)


def training_step(problem: Problem, plain: bool, dtype: torch.dtype) -> float:
    """Forward and backward; returns the loss a position."""
    with torch.autocast(problem.features.device.type, dtype, enabled=dtype != torch.float32):
        outputs = unroll(problem.head, problem.features, problem.embeddings, STEPS, reference=plain)
        rows = problem.head.normed(rows_for(outputs, problem.at)[0]).to(dtype)
        loss = reference_loss if plain else fused_loss
        terms = LossWeights(1.0, log_overlap=1.0)
        total = loss(rows, problem.head.lm_head.weight, problem.laws, problem.scale, terms).total
    torch.autograd.backward(total / problem.at.sum())
    problem.head.zero_grad()
    return float(total / problem.at.sum())


def measure_variant(variant: str, length: int, tokens: int, dtype: torch.dtype) -> dict[str, float]:
    """One variant in this process: the best of a few steps after one to warm up."""
    problem = make_problem(max(tokens // length, 1), length, dtype)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss = training_step(problem, variant == "plain", dtype)
    wall_s, cpu_s = [], []
    for _ in range(REPEATS):
        started = time.perf_counter(), time.process_time()
        training_step(problem, variant == "plain", dtype)
        wall_s.append(time.perf_counter() - started[0])
        cpu_s.append(time.process_time() - started[1])
    peak_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    count = problem.at.numel()
    return {
        "loss": loss,
        "tokens_per_s": count / min(wall_s),
        "tokens_per_cpu_s": count / min(cpu_s),
        "peak_mb": peak_mb,
    }


@dataclass(frozen=True)
class TrainingBench:
    """Options of `eagle-hsd bench training`. Raises ValueError at construction for values outside their range."""

    length: tuple[int, ...] = option(
        (512, 2048), "T, tokens of a conversation", at_least=2 * STEPS, at_most=MOST_TOKENS
    )
    tokens: int = option(2048, "of a batch; at least one conversation", at_least=2 * STEPS, at_most=MOST_TOKENS)
    dtype: str = option("bfloat16", "of the products", choices=DTYPES)
    threads: int | None = option(None, "CPU threads; torch's choice by default", at_least=1, at_most=1024)
    variant: str | None = option(None, "measure one variant here and print JSON", choices=VARIANTS)

    def __post_init__(self) -> None:
        check_options(self)
        if not self.length:
            raise ValueError("length is empty: name at least one")

    @property
    def num_threads(self) -> int:
        return self.threads or torch.get_num_threads()


def training_flags(argv: Sequence[str] | None) -> TrainingBench:
    default = TrainingBench()
    parser = CommandParser(__doc__)
    parser.add_argument("--length", type=int, nargs="+", default=default.length, help="T, tokens of a conversation")
    parser.add_argument("--tokens", type=int, default=default.tokens, help="tokens of a batch")
    parser.add_argument("--dtype", choices=DTYPES, default=default.dtype, help="of the products")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--variant", choices=VARIANTS, help="measure one variant here and print JSON")
    return TrainingBench(**vars(parser.parse_args(argv)))


def measure_apart(config: TrainingBench, variant: str, length: int) -> dict[str, float]:
    """One variant in a process of its own. Raises ValueError with the last line of one that fails."""
    flags = ["--length", length, "--tokens", config.tokens, "--dtype", config.dtype, "--threads", config.num_threads]
    command = [sys.executable, "-m", "evaluation.bench.training_step", *map(str, flags), "--variant", variant]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["killed, perhaps for want of memory"])[-1]
        raise ValueError(f"the variant {variant} of length {length} ended with {done.returncode}: {told}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main(argv: Sequence[str] | None = None) -> None:
    config = training_flags(argv)
    torch.set_num_threads(config.num_threads)
    if config.variant:
        dtype = getattr(torch, config.dtype)
        print(json.dumps(measure_variant(config.variant, config.length[0], config.tokens, dtype)))
        return
    sizes = f"{STEPS} steps, Vd {SHAPE.draft_vocab_size}"
    print(f"{sizes}, {config.dtype}, {config.num_threads} threads, torch {torch.__version__}")
    for length in config.length:
        for variant in VARIANTS:
            result = measure_apart(config, variant, length)
            print(f"T {length:5d}  {variant:6s} " + "  ".join(f"{name} {value:.4g}" for name, value in result.items()))


if __name__ == "__main__":
    main()
