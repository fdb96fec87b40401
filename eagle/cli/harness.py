"""Run lm-evaluation-harness with model eagle-hsd, which drafts and verifies what it generates.

    eagle-hsd lm-eval --model eagle-hsd --model_args pretrained=MODEL,head=HEAD,dtype=float32 --tasks gsm8k

Arguments are those of `lm_eval` itself; model arguments those of its model hf, and head, tree, lookup, verifier.
"""

import sys
from collections.abc import Sequence

from eagle.packages import need


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    harness = need("lm_eval.__main__")
    need("eagle.hf.drafted_lm")  # registers the model
    sys.argv = ["eagle-hsd lm-eval", *words]
    harness.cli_evaluate()
