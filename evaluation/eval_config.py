"""What a run measures: one frozen dataclass, of which a field is a flag is a YAML key."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from eagle.judging import VERIFIERS
from eagle.load_options import LoadOptions
from eagle.options import DTYPES, check_options, option


@dataclass(frozen=True)
class EvalConfig(LoadOptions):
    """Options of `eagle-hsd evaluate`. Raises ValueError at construction for values outside their range."""

    output: str = option("runs/evaluation", "directory of the rows, the summary and the report", may_change=True)
    tasks: tuple[str, ...] = option(("mt_bench", "gsm8k", "humaneval"), "benchmarks", may_change=True, each_once=True)
    arms: tuple[str, ...] = option(
        ("autoregressive", "eagle3", "hsd", "coupled"),
        "arms: names in evaluation/arms.py, TREE+VERIFIER or TREE+VERIFIER+lookup",
        may_change=True,
        each_once=True,
    )
    temperatures: tuple[float, ...] = option(
        (0.0, 1.0), "0 is greedy", may_change=True, at_least=0, at_most=100, each_once=True
    )
    seeds: int = option(
        3, "repetitions of every question above temperature 0", may_change=True, at_least=1, at_most=10_000
    )
    greedy_seeds: int = option(
        1, "repetitions at temperature 0, where only the clock can differ", may_change=True, at_least=1, at_most=10_000
    )
    limit: int | None = option(
        None, "questions a task, the first of a fixed shuffle; all by default", may_change=True, at_least=1
    )
    resamples: int = option(
        2000, "bootstrap resamples behind every interval", may_change=True, at_least=1, at_most=100_000
    )
    verify_lossless: bool = option(
        False, "check drafting and verification on a tiny model before measuring", may_change=True
    )
    unsafe_sandbox: bool = option(
        False, "run programs of the model, to score them, where they cannot be kept apart", may_change=True
    )

    target: str | None = option(None, "Hugging Face id, directory or GGUF file; the embedded SmolLM2 by default")
    head: str | None = option(None, "draft head, directory or Hugging Face id; the shipped one by default")
    assistant: str | None = option(None, "small language model for hf_assisted, directory or Hugging Face id")
    hierarchy: str | None = option(None, "plan.json of `eagle-hsd hierarchy plan`, for arms hierarchy and single")
    level: tuple[str, ...] = option(
        (), "levels of arm hierarchy named by hand, largest first: small=ID:buffer=8,head=DIR, copy=int8, lookup"
    )
    endpoint: str | None = option(
        None, "address of a running server of the target, for arm served, as http://127.0.0.1:8000/v1"
    )
    served_model: str | None = option(None, "its name there; the only one by default")
    eagle3_tree: str = option(
        "eagle", "tree policy of eagle3, the reference; 'eagle' alone takes the node budget that pays here"
    )
    tree: str = option(
        "auto", "tree policy of hsd, as chain:depth=4; 'auto' or 'budgeted' alone takes what was measured here"
    )
    verifier: str = option("hsd", "verifier of hsd", choices=VERIFIERS)
    batch: int = option(
        1,
        "answers of an arm that are decoded side by side; seconds are then shares of the batch's",
        at_least=1,
        at_most=1024,
    )
    max_new_tokens: int = option(256, "cap on every answer", at_least=1, at_most=1 << 20)
    prompt_lookup_tokens: int = option(10, "tokens hf_prompt_lookup proposes a round", at_least=1, at_most=1024)
    system: str | None = option(None, "system prompt; the chat template's own by default", may_be_empty=True)
    template: str | None = option(None, "FastChat conversation template, for a tokenizer without a chat template")
    sources: tuple[str, ...] = option((), "benchmark items from elsewhere: TASK=FILE.jsonl or TASK=HUB_ID")
    seed: int = option(0, "of the run; every question's own seed follows from it")
    dtype: str | None = option(
        None, "of the target's weights; what the machine multiplies natively by default", choices=DTYPES
    )
    device: str | None = option(None, "such as cpu or cuda; the first accelerator by default")
    threads: int | None = option(None, "CPU threads; torch's choice by default", at_least=1, at_most=1024)

    def __post_init__(self) -> None:
        check_options(self)

    def num_seeds(self, temperature: float) -> int:
        return self.seeds if temperature > 0 else self.greedy_seeds


def config_hash(identity: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that name a set of options."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
