"""Write a model directory that drafts wherever transformers generates: `transformers serve`, pipelines, any loader.

    eagle-hsd export-generate meta-llama/Llama-3.1-8B-Instruct runs/head served/llama
    eagle-hsd export-generate default default served/smollm2      # the embedded model and its shipped head
    transformers serve served/smollm2 --trust-remote-code

The directory holds the model, the head and custom_generate/generate.py, which transformers runs where it is told to
trust the code of a model. The package eagle-hsd has to be installed there.
"""

import argparse
from collections.abc import Sequence

from eagle.hf.exported import export
from eagle.load_options import add_loading_flags, loading_options
from eagle.options import CommandParser


def export_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("model", help="Hugging Face id, directory or GGUF file; 'default': the embedded model")
    parser.add_argument("head", help="directory or Hugging Face id; 'default': the shipped one")
    parser.add_argument("output", help="directory to write")
    add_loading_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = export_flags(argv)
    print(f"wrote {export(args.model, args.head, args.output, **loading_options(args))}")
