"""A model worker for FastChat: registers with its controller and answers what its server, arena or API asks.

    python -m fastchat.serve.controller                          # FastChat's own, port 21001
    eagle-hsd fastchat-worker --target ID --head ID              # registers there
    python -m fastchat.serve.test_message --model-name NAME      # asks through the controller

Temperature, top-p, stop strings and lengths come with every request; verifier, tree and seed are the flags'.
"""

import argparse
import os
from collections.abc import Sequence

from rich.console import Console

from eagle.cli.common import add_decoding_flags, chat_from_flags, show_settings
from eagle.listening import OPEN_TO_ALL, free_port, is_loopback
from eagle.options import CommandParser
from eagle.packages import need

PORT, CONTROLLER = 21002, "http://127.0.0.1:21001"


def worker_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--controller", default=CONTROLLER, help=f"address of the controller (default: {CONTROLLER})")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=PORT, help=f"0: any free one (default: {PORT})")
    parser.add_argument("--worker-address", help="where the controller reaches this worker (default: host and port)")
    parser.add_argument("--model-name", help="what the controller calls the model (default: the target's last name)")
    parser.add_argument("--plain", action="store_true", help="without the head")
    add_decoding_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args, console = worker_flags(argv), Console(highlight=False)
    port = free_port(args.host, args.port)
    os.environ.setdefault("LOGDIR", "")  # FastChat writes log files into the working directory otherwise
    need("fastchat.serve.base_model_worker")
    import uvicorn  # FastChat brings it

    from eagle.fschat.model_worker import SpeculativeWorker, app

    chat = chat_from_flags(args, plain=args.plain)
    show_settings(console, chat)
    chat.warm_up()
    name = args.model_name or chat.target.name.rstrip("/").rsplit("/", 1)[-1]
    address = args.worker_address or f"http://{args.host}:{port}"
    worker = SpeculativeWorker(chat, name, args.controller.rstrip("/"), address, args.system, args.seed)
    worker.init_heart_beat()
    if not is_loopback(args.host):
        console.print(OPEN_TO_ALL, style="yellow")
    console.print(f"{name} at {address}, registered with {args.controller}; Ctrl-C ends", soft_wrap=True)
    uvicorn.run(app, host=args.host, port=port, log_level="warning")
