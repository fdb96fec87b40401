"""Measure on held-out contexts how often a tree's slots are accepted, for the head's drafting.json.

eagle-hsd trees record && eagle-hsd trees fit --held-out --samplings 0.6 1
"""

import sys
from collections.abc import Sequence

from evaluation.trees import compare


def main(argv: Sequence[str] | None = None) -> None:
    compare.main(["--fit", *(sys.argv[1:] if argv is None else argv)])
