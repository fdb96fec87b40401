"""Measure tau, speed and accuracy on MT-Bench, GSM8K and HumanEval, with intervals, and write a report.

    python scripts/evaluate.py --config configs/eval/quick.yaml
    python scripts/evaluate.py --tasks gsm8k --arms autoregressive eagle3 hsd --temperatures 0 1 --limit 10 \\
        --output runs/gsm8k

Killed and started again, the same command does only what is missing.
"""

from rich.console import Console

from eagle.cli.common import run_or_explain
from eagle.options import parse
from evaluation.eval_config import EvalConfig
from evaluation.evaluate import evaluate


def main() -> None:
    evaluate(parse(EvalConfig, __doc__ or ""), Console())


if __name__ == "__main__":
    run_or_explain(main)
