"""Answer one prompt through a verified draft tree and compare with plain decoding of the same prompt.

bash scripts/demo.sh "Why is the sky blue?"                # sets everything up first
eagle-hsd demo --temperature 1 --seed 7 "question"         # in a ready environment
eagle-hsd demo --temperature 1 --seed 7 --check            # is the drafted text the plain one, token for token?
"""

import argparse
import math
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text as RichText

from eagle.agreement import Parting, chosen_tokens, parting, tie_gap
from eagle.chat import Chat
from eagle.cli.common import LengthNotice, add_decoding_flags, chat_from_flags, show_settings, stream_to
from eagle.cli.level_flags import has_levels, show_levels, show_notices
from eagle.dtypes import dtype_name
from eagle.judging import AUTO, COUPLED
from eagle.options import CommandParser
from eagle.stats import DecodeStats

DEFAULT_PROMPT = "Write a Python function that returns the n-th Fibonacci number, and explain how it works."


def demo_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("prompt", nargs="?", default=DEFAULT_PROMPT)
    arms = parser.add_mutually_exclusive_group()
    arms.add_argument("--plain", action="store_true", help="plain decoding only, without the head")
    arms.add_argument("--no-comparison", action="store_true", help="skip the plain run that the speed-up needs")
    arms.add_argument(
        "--check",
        action="store_true",
        help="compare with plain decoding of the same seed, token for token: exit code 1 where they differ; verifier "
        "coupled and float32 unless others are named",
    )
    add_decoding_flags(parser)
    args = parser.parse_args(argv)
    return settled_for_check(args) if args.check else args


def settled_for_check(args: argparse.Namespace) -> argparse.Namespace:
    """Flags with what --check fills in. Raises ValueError for a verifier whose text is another draw of the same law."""
    args.verifier = COUPLED if args.verifier in (None, AUTO) else args.verifier
    args.dtype = "float32" if args.dtype == "auto" else args.dtype  # bfloat16 flips near ties
    if (args.temperature or 0) > 0 and args.verifier != COUPLED:
        raise ValueError(
            f"--check does not apply to verifier '{args.verifier}' at temperature {args.temperature:g}: its text has "
            "plain decoding's law and is another draw of it; leave --verifier out, or take --temperature 0"
        )
    return args


def answer_aloud(chat: Chat, prompt: str, console: Console) -> DecodeStats:
    """Stream one answer to the console."""
    stream_to(console, chat.stream(prompt))
    return chat.stats


def show_agreement(drafted: Chat, plain: Chat, seed: int, console: Console) -> bool:
    """Print the plain text and whether its tokens are the drafted ones; returns it."""
    console.print("plain decoding with the same seed:", style="dim")
    console.print(RichText(plain.messages[-1]["content"]), soft_wrap=True)
    parted = parting(plain.tokens, drafted.tokens)
    if parted is None:
        console.print(f"equal: {len(plain.tokens)} tokens")
    else:
        console.print(RichText(_told(parted, plain, seed)), soft_wrap=True)
    return parted is None


def _told(parted: Parting, plain: Chat, seed: int) -> str:
    """Where two texts part, with the gap of the two tokens that the target chose between."""
    words = [_word(token, plain) for token in (parted.expected, parted.found)]
    text = f"equal for {parted.position} tokens, then different: plain {words[0]}, drafted {words[1]}"
    if parted.expected is None or parted.found is None:
        return text
    ids = [*plain.prompt_ids, *plain.tokens[: parted.position]]
    judged = chosen_tokens(plain.options.sampling, seed, plain.target)
    gap = tie_gap(plain.target, ids, judged, parted.expected, parted.found, len(plain.prompt_ids))
    dtype = dtype_name(plain.target.dtype)
    told = f"a gap of {abs(gap):.2g}" if math.isfinite(gap) else "one of which the law leaves out"
    return f"{text}, {told} in {dtype} ({'perturbed logits z + T g' if judged.field else 'logits'})"


def _word(token: int | None, chat: Chat) -> str:
    if token is None:
        return "ends here"
    assert chat.target.tokenizer is not None, "it answered"
    return f"{chat.target.tokenizer.decode([token])!r} ({token})"


def comparison(stats: DecodeStats, plain: DecodeStats | None, name: str = "eagle") -> Table:
    """What was measured, a row an arm, with the speed-up where there is a plain run. `name`: of the drafting arm."""
    grid = Table(title=None, show_header=True)
    for column in ("", "rounds", "tau", "block efficiency", "tokens/s", "speed-up"):
        grid.add_column(column, justify="left" if not column else "right")
    if plain is not None:
        grid.add_row(
            "plain", str(plain.rounds), "", f"{plain.block_efficiency:.2f}", f"{plain.tokens_per_s:.1f}", "1.00"
        )
    speedup = f"{stats.tokens_per_s / plain.tokens_per_s:.2f}" if plain and plain.tokens_per_s else ""
    row = (str(stats.rounds), f"{stats.tau:.2f}", f"{stats.block_efficiency:.2f}", f"{stats.tokens_per_s:.1f}", speedup)
    grid.add_row(name, *row)
    return grid


def main(argv: Sequence[str] | None = None) -> None:
    args, console = demo_flags(argv), Console(highlight=False)
    chat = chat_from_flags(args, plain=args.plain)
    show_settings(console, chat)
    chat.warm_up()
    LengthNotice(console, chat).check(args.prompt)
    stats = answer_aloud(chat, args.prompt, console)
    name = "plain" if args.plain else "hierarchy" if has_levels(args) else "eagle"
    show_notices(console, args.notices)
    show_levels(console, chat.session.drafter)
    if args.plain or args.no_comparison:
        console.print(comparison(stats, None, name))
        return
    plain = chat_from_flags(args, plain=True, target=chat.target)
    with console.status("plain decoding of the same prompt, for comparison"):
        plain.ask(args.prompt)
    is_equal = not args.check or show_agreement(chat, plain, args.seed, console)
    console.print(comparison(stats, plain.stats, name))
    console.print("decode time only (after the first token), both arms in this process, one run each", style="dim")
    if not is_equal:
        sys.exit(1)
