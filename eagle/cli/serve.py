"""An OpenAI-compatible server: chat and text completions, streamed or whole, several requests at once.

    eagle-hsd serve                                        # the embedded target and its shipped head
    eagle-hsd serve --target ID --head ID --port 8000
    curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}'

Flags of decoding are what requests that do not say get. Ctrl-C lets answers end, for --grace-s seconds.
"""

import argparse
import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_type_hints

from rich.console import Console

from eagle.cli.common import DTYPES, add_decoding_flags, given_sampling, told_sampling
from eagle.cli.level_flags import has_levels, levels_from_flags
from eagle.decode import DecodeOptions
from eagle.dtypes import dtype_name
from eagle.engine.target import Target
from eagle.judging import AUTO
from eagle.listening import bound
from eagle.load_options import loading_options
from eagle.loading import load_head, load_target
from eagle.options import CommandParser
from eagle.pairing import check_pair
from eagle.parallel.launch import follows
from eagle.planner import planned_drafters
from eagle.sampling import Sampling
from eagle.serving.backend import OPENAI_SAMPLING, Backend, served_sampling
from eagle.serving.serve_options import ServeOptions
from eagle.serving.server import serve
from eagle.trees import TreePolicy, parse_policy

log = logging.getLogger("eagle.serving")
KEY = "EAGLE_HSD_API_KEY"
OPEN = "warning: other machines can connect and there is no API key: pass one, or leave --host out"
TEMPERATURES = (0.0, 1.0)  # of requests that are to be expected: tree and verifier must fit at both


def serve_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--plain", action="store_true", help="without the head")
    hints = get_type_hints(ServeOptions)
    for field in dataclasses.fields(ServeOptions):
        name, told = f"--{field.name.replace('_', '-')}", field.metadata["help"]
        if hints[field.name] is bool:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default, help=told)
            continue
        kind = next((kind for kind in (int, float) if hints[field.name] in (kind, kind | None)), str)
        told += "" if field.default is None else f" (default: {field.default})"
        parser.add_argument(name, type=kind, default=field.default, help=told)
    add_decoding_flags(parser)
    parser.set_defaults(seed=None, max_new_tokens=None)  # a seed of its own for each request, and all of the context
    return parser.parse_args(argv)


def options_from_flags(args: argparse.Namespace) -> ServeOptions:
    named = {field.name: getattr(args, field.name) for field in dataclasses.fields(ServeOptions)}
    named["api_key"] = named["api_key"] or os.environ.get(KEY) or None
    return ServeOptions(**named)


def backend_from_flags(args: argparse.Namespace, name: str | None) -> Backend:
    """The target, and drafters as the flags describe them: one a session, all of the same models."""
    given = given_sampling(args)
    verifier, policy = args.verifier or AUTO, parse_policy(args.tree)
    asked = Sampling(**given)  # before loading: a typing error should cost nothing
    if args.max_new_tokens is not None:
        DecodeOptions(asked, args.max_new_tokens)
    if not (args.plain or has_levels(args)):
        for sampling in (asked, *map(Sampling, TEMPERATURES)):
            check_pair(policy, verifier, sampling, args.lookup)
    target, told = drafted(args, policy)
    sampling, stop = served_sampling(target) if args.generation_config == "auto" else (OPENAI_SAMPLING, ())
    return Backend(
        target,
        name=name or "",
        sampling=replace(sampling, **given),
        verifier=verifier,
        template=args.template,
        system=args.system,
        stop=(*stop, *args.stop),
        seed=args.seed,
        max_new_tokens=args.max_new_tokens,
        **told,
    )


def drafted(args: argparse.Namespace, policy: TreePolicy) -> tuple[Target, dict[str, Any]]:
    """The target, and what `Backend` is told of its drafters."""
    if has_levels(args) and not args.plain:
        chosen = levels_from_flags(args, DTYPES[args.dtype], None)
        own = chosen.candidates
        return own.target, {"new_drafter": lambda: chosen.drafter(log.warning), "check_length": own.check_room}
    target = load_target(args.target, DTYPES[args.dtype], args.device, **loading_options(args))
    if args.plain:
        return target, {}
    most_rows = 1 if args.take_turns else args.max_active
    return target, {
        "new_drafter": planned_drafters(target, load_head(args.head, target), policy, most_rows, args.lookup)
    }


def show_backend(console: Console, backend: Backend, options: ServeOptions) -> None:
    target = backend.target
    named = f"{backend.name} on {target.device}, {dtype_name(target.dtype)}"
    console.print(
        f"{named}; requests that do not say get {told_sampling(backend.sampling)}", style="dim", soft_wrap=True
    )
    counts = f"{options.max_active} requests at once, {options.max_waiting} may wait"
    console.print(f"{counts}, {options.num_sessions} texts stay in memory", style="dim", soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> None:
    args, console = serve_flags(argv), Console(highlight=False, stderr=True)
    options = options_from_flags(args)
    if follows(args.tp):
        backend_from_flags(args, options.served_model_name)  # and never comes back: one process has the port
    listener = bound(options.host, options.port)  # before loading: a port that is taken should cost nothing
    backend = backend_from_flags(args, options.served_model_name)
    if not options.is_local and options.api_key is None:
        console.print(OPEN, style="yellow")
    show_backend(console, backend, options)
    serve(backend, options, listener, lambda address: console.print(f"{backend.name} listens on {address}"))
