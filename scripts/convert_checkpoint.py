"""Convert a draft head between the flat layout (SafeAILab, SpecForge, AngelSlim, SGLang) and speculators' (vLLM).

    python scripts/convert_checkpoint.py runs/llama/best heads/vllm --to speculators --target meta-llama/Llama-3.1-8B
    python scripts/convert_checkpoint.py some/published-head heads/flat --to flat

Tensors are copied, not computed with: a round trip gives back the same bits. The input's layout is recognised.
`--target` names the target: needed for the speculators layout, and where the head's config names no feature layers.
"""

import argparse
import sys

from eagle.checkpoints.conversion import LAYOUTS, convert
from eagle.loading import load_target


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="directory or Hugging Face id of a head")
    parser.add_argument("output", help="directory to write")
    parser.add_argument("--to", choices=LAYOUTS, required=True, help="layout to write")
    parser.add_argument("--target", help="directory or Hugging Face id of the target; 'default': the packaged SmolLM2")
    return parser.parse_args()


def main() -> None:
    args = parse()
    target = load_target(None if args.target == "default" else args.target) if args.target else None
    print(f"wrote {convert(args.source, args.output, args.to, target)}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"convert_checkpoint: {error}")
