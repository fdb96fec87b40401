"""Chat in the browser: accepted tokens in colour, live numbers, draft trees as pictures, plain decoding beside it.

    eagle-hsd web                                 # the embedded target and its shipped head, on this machine alone
    eagle-hsd web --target ID --head ID --port 8000

Flags of decoding are what the page's fields start with. Ctrl-C ends it.
"""

import argparse
import threading
from collections.abc import Sequence
from functools import partial

from rich.console import Console

from eagle.cli.chat_maker import LoadedModels, check_flags, models_from_flags
from eagle.cli.common import add_decoding_flags, show_settings
from eagle.cli.dispatch import explain
from eagle.listening import OPEN_TO_ALL, free_port, is_loopback
from eagle.options import CommandParser
from eagle.packages import need
from eagle.web.conversation import Conversation
from eagle.web.decoding_thread import DecodingThread
from eagle.web.visitors import Visitors

PORT = 7860


def web_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=PORT, help=f"0: any free one (default: {PORT})")
    parser.add_argument("--plain", action="store_true", help="without the head")
    add_decoding_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args, console = web_flags(argv), Console(highlight=False)
    check_flags(args)
    port = free_port(args.host, args.port)
    for package in ("gradio", "matplotlib"):  # before models are loaded
        need(package)
    models, thread = models_from_flags(args), DecodingThread()
    try:
        warm_up(models, thread, console)
        if not is_loopback(args.host):
            console.print(OPEN_TO_ALL, style="yellow")
        visitors = Visitors(partial(Conversation, models, thread, explain))
        serve_until_interrupted(models, visitors, args.host, port, console)
    finally:
        thread.close()


def warm_up(models: LoadedModels, thread: DecodingThread, console: Console) -> None:
    """The first passes of a process pay for allocations, and the first tree for measuring this machine."""
    chat = models.make(models.settings)
    show_settings(console, chat)
    thread.run(chat.warm_up)
    thread.run(models.make(models.settings, plain=True).warm_up)


def serve_until_interrupted(models: LoadedModels, visitors: Visitors, host: str, port: int, console: Console) -> None:
    from eagle.web.web_page import build_page, serve  # not above: who lacks gradio is told so by `need`

    def wait() -> None:
        console.print(f"open http://{host}:{port} in a browser; Ctrl-C ends", soft_wrap=True)
        threading.Event().wait()

    told = f"{models.target.name} on {models.target.device}"
    serve(build_page(visitors, models.settings, told), host, port, wait)
