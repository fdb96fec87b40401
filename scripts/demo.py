"""Answer one prompt through a verified draft tree and compare with plain decoding of the same prompt.

bash scripts/demo.sh "Why is the sky blue?"                  # sets everything up first
python scripts/demo.py --temperature 1 --seed 7 "question"   # in a ready environment
"""

import argparse

from rich.console import Console
from rich.table import Table

from eagle.chat import Chat
from eagle.cli.common import add_decoding_flags, chat_from_flags, run_or_explain, show_settings, stream_to
from eagle.stats import DecodeStats

DEFAULT_PROMPT = "Write a Python function that returns the n-th Fibonacci number, and explain how it works."


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default=DEFAULT_PROMPT)
    parser.add_argument("--plain", action="store_true", help="plain decoding only, without the head")
    parser.add_argument("--no-comparison", action="store_true", help="skip the plain run that the speed-up needs")
    add_decoding_flags(parser)
    return parser.parse_args()


def answer(chat: Chat, prompt: str, console: Console) -> DecodeStats:
    """Stream one answer to the console."""
    stream_to(console, chat.stream(prompt))
    return chat.stats


def measure(chat: Chat, prompt: str) -> DecodeStats:
    """The same prompt again, silently and from an empty conversation."""
    chat.reset()
    chat.ask(prompt)
    return chat.stats


def table(stats: DecodeStats, plain: DecodeStats | None) -> Table:
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


def main() -> None:
    args, console = parse(), Console(highlight=False)
    chat = chat_from_flags(args, plain=args.plain)
    show_settings(console, chat)
    chat.ask("Hi")  # warm-up: the first forward of a process pays for allocations
    chat.reset()
    stats = answer(chat, args.prompt, console)
    plain = None
    if not (args.plain or args.no_comparison):
        with console.status("plain decoding of the same prompt, for comparison"):
            plain = measure(chat_from_flags(args, plain=True, target=chat.target), args.prompt)
    console.print(table(stats, plain))
    if plain is not None:
        console.print("decode time only (after the first token), both arms in this process, one run each", style="dim")


if __name__ == "__main__":
    run_or_explain(main)
