"""Answer one prompt through a verified draft tree and compare with plain decoding of the same prompt.

bash scripts/demo.sh "Why is the sky blue?"                # sets everything up first
eagle-hsd demo --temperature 1 --seed 7 "question"         # in a ready environment
"""

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from eagle.chat import Chat
from eagle.cli.common import LengthNotice, add_decoding_flags, chat_from_flags, show_settings, stream_to
from eagle.options import CommandParser
from eagle.stats import DecodeStats

DEFAULT_PROMPT = "Write a Python function that returns the n-th Fibonacci number, and explain how it works."


def demo_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("prompt", nargs="?", default=DEFAULT_PROMPT)
    parser.add_argument("--plain", action="store_true", help="plain decoding only, without the head")
    parser.add_argument("--no-comparison", action="store_true", help="skip the plain run that the speed-up needs")
    add_decoding_flags(parser)
    return parser.parse_args(argv)


def answer_aloud(chat: Chat, prompt: str, console: Console) -> DecodeStats:
    """Stream one answer to the console."""
    stream_to(console, chat.stream(prompt))
    return chat.stats


def answer_silently(chat: Chat, prompt: str) -> DecodeStats:
    """The same prompt again, silently and from an empty conversation."""
    chat.reset()
    chat.ask(prompt)
    return chat.stats


def comparison(stats: DecodeStats, plain: DecodeStats | None) -> Table:
    """What was measured, a row an arm, with the speed-up where there is a plain run."""
    grid = Table(title=None, show_header=True)
    for column in ("", "rounds", "tau", "block efficiency", "tokens/s", "speed-up"):
        grid.add_column(column, justify="left" if not column else "right")
    if plain is not None:
        grid.add_row(
            "plain", str(plain.rounds), "", f"{plain.block_efficiency:.2f}", f"{plain.tokens_per_s:.1f}", "1.00"
        )
    speedup = f"{stats.tokens_per_s / plain.tokens_per_s:.2f}" if plain and plain.tokens_per_s else ""
    row = (str(stats.rounds), f"{stats.tau:.2f}", f"{stats.block_efficiency:.2f}", f"{stats.tokens_per_s:.1f}", speedup)
    grid.add_row("plain" if plain is None and not stats.num_accepted else "eagle", *row)
    return grid


def main(argv: Sequence[str] | None = None) -> None:
    args, console = demo_flags(argv), Console(highlight=False)
    chat = chat_from_flags(args, plain=args.plain)
    show_settings(console, chat)
    chat.ask("Hi")  # warm-up: the first forward of a process pays for allocations
    chat.reset()
    LengthNotice(console, chat).check(args.prompt)
    stats = answer_aloud(chat, args.prompt, console)
    plain = None
    if not (args.plain or args.no_comparison):
        with console.status("plain decoding of the same prompt, for comparison"):
            plain = answer_silently(chat_from_flags(args, plain=True, target=chat.target), args.prompt)
    console.print(comparison(stats, plain))
    if plain is not None:
        console.print("decode time only (after the first token), both arms in this process, one run each", style="dim")
