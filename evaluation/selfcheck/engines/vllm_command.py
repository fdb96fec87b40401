"""vLLM with the shipped head: texts, laws, the plug-in, its server, its speed. Needs vLLM; `check_vllm.sh` installs it.

bash scripts/check_vllm.sh                          # everything, about 20 minutes on two cores
bash scripts/check_vllm.sh --only texts laws        # texts | laws | server | speed
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from eagle.checkpoints.conversion import convert
from eagle.dtypes import dtype_name
from eagle.loading import SHIPPED_HEAD, find_model, load_target
from evaluation.selfcheck.engines.findings import Findings, as_table
from evaluation.selfcheck.engines.questions import greedy_texts, prompts_of
from evaluation.selfcheck.engines.vllm_check import GREEDY_TOKENS, Material, check_all, check_texts
from evaluation.selfcheck.engines.vllm_server import check_commands, time_regeneration
from evaluation.selfcheck.engines.vllm_setups import Models, setups

TEXTS = ("flat", "speculators", "head-alone")
LAWS = {
    "flat": False,
    "tokenwise-drawn": True,
    "hsd-drawn": True,
    "hsd-placed": True,
}  # vLLM alone is known to be wrong
SERVED = ("plain", "hsd-drawn")
SPEED_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Check:
    """One run: its directory, the models in it, what is found."""

    def __init__(self, output: Path, first_seed: int = 0, speed_dtype: torch.dtype = torch.float32) -> None:
        self.output, self.speed_dtype = output, speed_dtype
        output.mkdir(parents=True, exist_ok=True)
        self.target = load_target(dtype=torch.float32, device="cpu")
        nested = convert(SHIPPED_HEAD, output / "head", "speculators", self.target)
        models = Models(find_model(None), str(SHIPPED_HEAD.resolve()), str(nested.resolve()))
        self.setups = setups(models, output)
        self.findings = Findings(output / "findings.json")
        prompts = prompts_of(self.target)
        greedy = greedy_texts(self.target, prompts, GREEDY_TOKENS, output / "greedy.json")
        self.material = Material.of(self.target, prompts, greedy, first_seed)

    def texts(self) -> None:
        for name in TEXTS:
            check_texts(self.setups[name], self.material, self.findings, self.output)

    def laws(self) -> None:
        for name, is_right in LAWS.items():
            check_all(self.setups[name], self.material, self.findings, self.output, is_right)

    def server(self) -> None:
        check_commands(self.setups["hsd-drawn"], self.output, self.findings)

    def speed(self) -> None:
        named = {"dtype": dtype_name(self.speed_dtype)}
        served = [replace(one, options={**one.options, **named}) for one in map(self.setups.__getitem__, SERVED)]
        target = load_target(dtype=self.speed_dtype, device="cpu")
        time_regeneration(served, target, self.material.prompts, self.output, self.findings)


PARTS: dict[str, Callable[[Check], None]] = {
    "texts": Check.texts,
    "laws": Check.laws,
    "server": Check.server,
    "speed": Check.speed,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/check-vllm"), help="directory of logs and findings")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to run")
    parser.add_argument("--first-seed", type=int, default=0, help="of the seeded requests: other ones, other draws")
    parser.add_argument("--speed-dtype", choices=SPEED_DTYPES, default="float32", help="texts and laws are float32")
    args = parser.parse_args(argv)
    check = Check(args.output, args.first_seed, SPEED_DTYPES[args.speed_dtype])
    for name in args.only:
        PARTS[name](check)
    (args.output / "findings.md").write_text(as_table(check.findings.rows) + "\n", encoding="utf-8")
    if check.findings.failed:
        sys.exit(f"failed: {', '.join(check.findings.failed)}")


if __name__ == "__main__":
    main()
