"""Chat in the terminal: drafted and accepted tokens in colour, history, /reset, /stats, /quit.

    eagle-hsd chat                                # the embedded target and its shipped head
    eagle-hsd chat --target ID --head ID --temperature 0.7

Ctrl-C stops an answer and keeps the session; Ctrl-D or /quit ends it.
"""

import argparse
from collections.abc import Sequence

from rich.console import Console

from eagle.chat import Chat
from eagle.cli.common import LengthNotice, add_decoding_flags, chat_from_flags, show_settings, stream_to
from eagle.cli.level_flags import show_levels, show_notices
from eagle.options import CommandParser
from eagle.stats import DecodeStats

HELP = (
    "commands: /reset forgets the conversation, /stats shows the last answer's numbers, /quit ends; "
    "// begins a message with /"
)


def chat_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--plain", action="store_true", help="without the head")
    add_decoding_flags(parser)
    return parser.parse_args(argv)


def last_answer(stats: DecodeStats) -> str:
    """What /stats says."""
    return (
        f"{stats.rounds} rounds, tau {stats.tau:.2f}, block efficiency {stats.block_efficiency:.2f}, "
        f"{stats.tokens_per_s:.1f} tokens/s, first token after {stats.prefill_s:.2f} s"
    )


def answer_or_explain(chat: Chat, message: str, console: Console) -> None:
    """Stream one answer; Ctrl-C ends it, a message that does not fit is explained."""
    pieces = chat.stream(message)
    try:
        stream_to(console, pieces)
    except KeyboardInterrupt:
        pieces.close()  # puts what was said so far into the history
        console.print("\n(stopped)", style="dim")
    except ValueError as error:
        console.print(f"error: {error}", style="red")


def is_command(line: str) -> bool:
    """One word behind one slash; paths, longer texts and what begins with two slashes are messages."""
    return line.startswith("/") and line[1:].isalpha()


def obey(chat: Chat, command: str, console: Console) -> bool:
    """Carry out a slash command; False ends the chat."""
    if command == "/reset":
        chat.reset()
        console.print("(new conversation)", style="dim")
    elif command == "/stats":
        console.print(last_answer(chat.stats), style="dim")
        show_levels(console, chat.session.drafter)
    elif command != "/quit":
        console.print(HELP, style="dim")
    return command != "/quit"


def main(argv: Sequence[str] | None = None) -> None:
    args, console = chat_flags(argv), Console(highlight=False)
    chat = chat_from_flags(args, plain=args.plain)
    show_settings(console, chat)
    console.print(HELP, style="dim")
    notice = LengthNotice(console, chat)
    while True:
        try:
            message = console.input("[bold]> [/bold]").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            console.print()
            continue
        if is_command(message):
            if not obey(chat, message, console):
                return
        elif message:
            message = message[1:] if message.startswith("//") else message
            notice.check(message)
            answer_or_explain(chat, message, console)
            show_notices(console, args.notices)
