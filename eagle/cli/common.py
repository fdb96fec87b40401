"""What the commands that decode share: flags, settings shown to the user, streamed output."""

import argparse
from collections.abc import Iterable

import torch
from rich.console import Console
from rich.text import Text as RichText

from eagle.chat import Chat, Piece
from eagle.cli.level_flags import add_level_flags, has_levels, levels_from_flags
from eagle.decode import DecodeOptions
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.lookup import LookupDrafter
from eagle.dtypes import dtype_name
from eagle.engine.target import Target
from eagle.judging import AUTO, VERIFIERS
from eagle.levels.building import levels_of
from eagle.load_options import add_loading_flags, loading_options
from eagle.loading import load_head, load_target
from eagle.pairing import check_pair
from eagle.prompting import encode_prompt
from eagle.sampling import Sampling
from eagle.trees import POLICIES, parse_policy

ACCEPTED_STYLE = "green"
NO_NUMBERS = (
    "this head has no drafting.json: trees have neutral sizes; measure it once with "
    "`eagle-hsd trees record --sources held_out` and `eagle-hsd trees fit`"
)
FAR_BEYOND = 2  # times the length a head was trained on: it fades gradually
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def add_decoding_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every command that decodes. Defaults are those of `Sampling` and `DecodeOptions`."""
    sampling = Sampling()
    parser.add_argument("--target", help="Hugging Face id, directory or GGUF file (default: embedded SmolLM2-135M)")
    parser.add_argument("--head", help="directory or Hugging Face id of a draft head (default: the shipped one)")
    parser.add_argument("--tree", default="auto", help=f"{', '.join(POLICIES)}; fields: eagle:num_nodes=16,depth=5")
    parser.add_argument(
        "--lookup", action="store_true", help="trees also hold what followed the text's end before, in prompt or answer"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="auto: bfloat16 where it is native")
    parser.add_argument("--device", help="such as cuda or cpu (default: the first accelerator, or cpu)")
    add_loading_flags(parser)
    parser.add_argument("--temperature", type=float, default=sampling.temperature, help="0: greedy")
    parser.add_argument("--top-k", type=int, default=sampling.top_k, help="0: off")
    parser.add_argument("--top-p", type=float, default=sampling.top_p, help="1: off")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument(
        "--verifier",
        choices=(AUTO, *VERIFIERS),
        help="how trees are decided; auto (the default): coupled, or hsd for trees that are drawn",
    )
    parser.add_argument("--system", help="system prompt (default: the template's own)")
    parser.add_argument("--template", help="FastChat conversation template, for a tokenizer without one")
    parser.add_argument("--stop", action="append", default=[], help="stop string; may be given several times")
    add_level_flags(parser)


def chat_from_flags(args: argparse.Namespace, plain: bool = False, target: Target | None = None) -> Chat:
    """A conversation as the flags describe it; `plain` leaves the head out."""
    sampling = Sampling(args.temperature, args.top_k, args.top_p)  # before loading: a typing error should cost nothing
    options = DecodeOptions(sampling, args.max_new_tokens, args.verifier or AUTO)
    policy = parse_policy(args.tree)
    told = {"options": options, "system": args.system, "template": args.template, "stop": args.stop, "seed": args.seed}
    if not plain and has_levels(args):
        chosen = levels_from_flags(args, DTYPES[args.dtype], target)
        drafter, own = chosen.drafter(args.notices.append), chosen.candidates
        return Chat(own.target, drafter=drafter, check_length=own.check_room, **told)
    if not plain:
        check_pair(policy, options.verifier, sampling, args.lookup)
    target = target or load_target(args.target, DTYPES[args.dtype], args.device, **loading_options(args))
    lookup = LookupDrafter() if args.lookup and not plain else None
    return Chat(target, None if plain else load_head(args.head, target), policy, lookup=lookup, **told)


def show_settings(console: Console, chat: Chat) -> None:
    """One line: what runs, where, and in which precision."""
    target, sampling = chat.target, chat.options.sampling
    threads = f", {torch.get_num_threads()} threads" if target.device.type == "cpu" else ""
    precision = dtype_name(target.dtype) + (", compiled passes" if target.small_pass is not None else "")
    console.print(
        f"{target.name} on {target.device}{threads}, {precision}, temperature {sampling.temperature:g}", style="dim"
    )
    drafter = chat.session.drafter
    if isinstance(drafter, EagleDrafter) and drafter.head.fit is None:
        console.print(NO_NUMBERS, style="dim")
    if levels := levels_of(drafter):
        console.print(f"levels: {' <- '.join(f'{one.name} ({one.buffer})' for one in levels)}", style="dim")


class LengthNotice:
    """Says once that a context is far longer than any that the head was trained on: the text stays right, and slow."""

    def __init__(self, console: Console, chat: Chat):
        self._console, self._chat, self._told = console, chat, False

    def check(self, message: str) -> None:
        """Before `message` is answered. The template's own few tokens are not counted."""
        drafter, tokenizer = self._chat.session.drafter, self._chat.target.tokenizer
        trained = drafter.head.trained_length if isinstance(drafter, EagleDrafter) else None
        if self._told or trained is None or tokenizer is None:
            return
        texts = [*(said["content"] for said in self._chat.messages), message]
        length = sum(len(encode_prompt(tokenizer, text)) for text in texts) + self._chat.options.max_new_tokens
        if length > FAR_BEYOND * trained:
            self._console.print(fades(length, trained), style="dim")
            self._told = True


def fades(length: int, trained: int) -> str:
    return (
        f"prompt and answer may take {length:,} tokens, this head was trained on at most {trained:,}: fewer drafts are "
        "accepted there, the text stays the target's; a head for long contexts is trained with a larger max_length"
    )


def stream_to(console: Console, pieces: Iterable[Piece]) -> None:
    """Print pieces as they arrive, drafted and accepted tokens in colour."""
    for piece in pieces:
        console.print(RichText(piece.text, style=ACCEPTED_STYLE if piece.accepted else ""), end="", soft_wrap=True)
    console.print()
