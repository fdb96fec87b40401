"""Record contexts for comparing draft trees: prompts with a piece of the target's own answer, as token ids.

eagle-hsd trees record                                  # benchmarks and held-out prompts, about 15 minutes
eagle-hsd trees record --sources gsm8k --num-questions 4 --max-new-tokens 32
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from eagle.files import only_writer, remove_leftovers
from eagle.load_options import add_loading_flags, loading_options
from eagle.loading import load_target
from eagle.options import CommandParser
from evaluation.trees.contexts import SOURCES, RecordConfig, record_contexts, refuse_other_files


def record_flags(argv: Sequence[str] | None) -> tuple[RecordConfig, dict[str, Any]]:
    """What to record, and the arguments of `load_target`."""
    default = RecordConfig()
    parser = CommandParser(__doc__)
    parser.add_argument("--target", help="Hugging Face id, directory or GGUF file (default: the embedded SmolLM2)")
    parser.add_argument("--output", default=default.output, help="holds text of the prompts: do not commit")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=default.sources)
    parser.add_argument("--num-questions", type=int, default=default.num_questions, help="of every source")
    parser.add_argument("--temperatures", type=float, nargs="+", default=default.temperatures, help="of the answers")
    parser.add_argument("--num-cuts", type=int, default=default.num_cuts, help="contexts of one answer")
    parser.add_argument("--max-new-tokens", type=int, default=default.max_new_tokens)
    parser.add_argument(
        "--max-prompt-tokens", type=int, default=default.max_prompt_tokens, help="leave longer ones out"
    )
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--template", help="FastChat conversation template, for a tokenizer without a chat template")
    add_loading_flags(parser)
    args = parser.parse_args(argv)
    own = {field.name: getattr(args, field.name) for field in fields(RecordConfig) if hasattr(args, field.name)}
    return RecordConfig(**own), {"source": args.target, **loading_options(args)}


def main(argv: Sequence[str] | None = None) -> None:
    config, target = record_flags(argv)
    folder, number = Path(config.output).parent, 0
    with only_writer(folder):
        remove_leftovers(folder)
        refuse_other_files(Path(config.output))
        for number, context in enumerate(record_contexts(load_target(**target), config), start=1):
            print(f"{number:4d}  {context.id}  {len(context.ids)} tokens", flush=True)
    print(f"{number} new contexts in {config.output}")
