"""Convert a draft head between the flat layout (SafeAILab, SpecForge, AngelSlim, SGLang) and speculators' (vLLM).

    eagle-hsd convert runs/llama/best heads/vllm --to speculators --target meta-llama/Llama-3.1-8B
    eagle-hsd convert some/published-head heads/flat --to flat

Tensors are copied, not computed with: a round trip gives back the same bits. The input's layout is recognised.
`--target` names the target: needed for the speculators layout, and where the head's config names no feature layers.
"""

import argparse
from collections.abc import Sequence

from eagle.checkpoints.conversion import LAYOUTS, convert
from eagle.load_options import add_loading_flags, loading_options
from eagle.loading import load_target
from eagle.options import CommandParser


def convert_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("source", help="directory or Hugging Face id of a head")
    parser.add_argument("output", help="directory to write")
    parser.add_argument("--to", choices=LAYOUTS, required=True, help="layout to write")
    parser.add_argument("--target", help="directory or Hugging Face id of the target; 'default': the packaged SmolLM2")
    add_loading_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = convert_flags(argv)
    target = None
    if args.target:
        target = load_target(None if args.target == "default" else args.target, **loading_options(args))
    print(f"wrote {convert(args.source, args.output, args.to, target)}")
