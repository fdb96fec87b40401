"""What benchmarks of decoding share: which models they load, and what their numbers were measured under."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from eagle.dtypes import dtype_name
from eagle.engine.target import Target
from eagle.load_options import LoadOptions
from eagle.options import DTYPES, option
from evaluation.runner import machine, versions


@dataclass(frozen=True, kw_only=True)
class BenchOptions(LoadOptions):
    """Options of every benchmark that decodes."""

    target: str | None = option(None, "Hugging Face id, directory or GGUF file; the embedded SmolLM2 by default")
    head: str | None = option(None, "draft head, directory or Hugging Face id; the shipped one by default")
    output: str | None = option(None, "JSON file for all numbers")
    dtype: str | None = option(None, "of the target's weights; what the machine multiplies by default", choices=DTYPES)
    device: str | None = option(None, "such as cpu or cuda; the first accelerator by default")
    threads: int | None = option(None, "CPU threads; torch's choice by default", at_least=1, at_most=1024)


def conditions(config: BenchOptions, target: Target) -> dict[str, Any]:
    """What stands beside the numbers."""
    told = {"target": target.name, "dtype": dtype_name(target.dtype), "device": str(target.device)}
    told |= {"machine": machine(), "threads": str(torch.get_num_threads()), **versions()}
    return {**told, "options": asdict(config)}
