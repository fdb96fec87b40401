"""What a run measures: one frozen dataclass, of which a field is a flag is a YAML key."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from eagle.options import option

DTYPES = ("float32", "bfloat16", "float16")


def _selects(default: Any, explanation: str) -> Any:
    """An option that says which rows are wanted and changes none of them: a later run may widen it."""
    return option(default, explanation, only_selects=True)


@dataclass(frozen=True)
class EvalConfig:
    """Options of `scripts/evaluate.py`. Raises ValueError at construction for values outside their range."""

    output: str = _selects("runs/evaluation", "directory of the rows, the summary and the report")
    tasks: tuple[str, ...] = _selects(("mt_bench", "gsm8k", "humaneval"), "benchmarks")
    arms: tuple[str, ...] = _selects(
        ("autoregressive", "eagle3", "hsd"), "arms: names in evaluation/arms.py, or TREE+VERIFIER"
    )
    temperatures: tuple[float, ...] = _selects((0.0, 1.0), "0 is greedy")
    seeds: int = _selects(3, "repetitions of every question above temperature 0")
    greedy_seeds: int = _selects(1, "repetitions at temperature 0, where only the clock can differ")
    limit: int | None = _selects(None, "questions a task, the first of a fixed shuffle; all by default")
    resamples: int = _selects(2000, "bootstrap resamples behind every interval")
    verify_lossless: bool = _selects(False, "check drafting and verification on a tiny model before measuring")

    target: str | None = option(None, "Hugging Face id, directory or GGUF file; the embedded SmolLM2 by default")
    head: str | None = option(None, "draft head, directory or Hugging Face id; the shipped one by default")
    assistant: str | None = option(None, "small language model for hf_assisted, directory or Hugging Face id")
    eagle3_tree: str = option(
        "eagle", "tree policy of eagle3, the reference; 'eagle' alone takes the node budget that pays here"
    )
    tree: str = option(
        "auto", "tree policy of hsd, as chain:depth=4; 'auto' or 'budgeted' alone takes what was measured here"
    )
    verifier: str = option("hsd", "verifier of hsd, a name in hsd_verify.VERIFIERS")
    max_new_tokens: int = option(256, "cap on every answer")
    prompt_lookup_tokens: int = option(10, "tokens hf_prompt_lookup proposes a round")
    system: str | None = option(None, "system prompt; the chat template's own by default")
    template: str | None = option(None, "FastChat conversation template, for a tokenizer without a chat template")
    sources: tuple[str, ...] = option((), "benchmark items from elsewhere: TASK=FILE.jsonl or TASK=HUB_ID")
    seed: int = option(0, "of the run; every question's own seed follows from it")
    dtype: str | None = option(None, f"{', '.join(DTYPES)}; what the machine multiplies natively by default")
    device: str | None = option(None, "such as cpu or cuda; the first accelerator by default")
    threads: int | None = option(None, "CPU threads; torch's choice by default")

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperatures", tuple(map(float, self.temperatures)))
        for name in ("seeds", "greedy_seeds", "max_new_tokens", "resamples", "prompt_lookup_tokens"):
            _check_at_least_one(name, getattr(self, name))
        for name in ("limit", "threads"):
            _check_at_least_one(name, 1 if getattr(self, name) is None else getattr(self, name))
        for name in ("tasks", "arms", "temperatures"):
            _check_list(name, getattr(self, name))
        if min(self.temperatures) < 0:
            raise ValueError(f"temperatures holds {min(self.temperatures)}, it must be 0 (greedy) or larger")
        if self.dtype not in (None, *DTYPES):
            raise ValueError(f"dtype is '{self.dtype}': choose one of {', '.join(DTYPES)}")

    @property
    def identity(self) -> dict[str, Any]:
        """The options a row depends on. The others only choose which rows are wanted."""
        kept = [f.name for f in dataclasses.fields(self) if not f.metadata.get("only_selects")]
        return json.loads(json.dumps({name: getattr(self, name) for name in kept}))

    def num_seeds(self, temperature: float) -> int:
        return self.seeds if temperature > 0 else self.greedy_seeds


def config_hash(identity: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that name a set of options."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def _check_at_least_one(name: str, value: Any) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}, it must be a whole number of at least 1")


def _check_list(name: str, values: tuple) -> None:
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name} is {list(values)}: name at least one, each once")
