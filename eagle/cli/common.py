"""What the commands that decode share: flags, settings shown to the user, streamed output."""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.text import Text as RichText

from eagle.chat import Chat, Piece, options_of
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
PLAIN_IS_FASTER = (
    "plain decoding, without the head: by the measured costs of this machine no tree of it is faster; "
    "--tree auto:num_nodes=8 drafts all the same"
)
FAR_BEYOND = 2  # times the length a head was trained on: it fades gradually
SAMPLING_FLAGS: dict[str, tuple[type, str]] = {
    "temperature": (float, "0: greedy (default: the model's own, else 0)"),
    "top_k": (int, "keep the k most probable tokens; 0: off"),
    "top_p": (float, "keep the smallest set of most probable tokens with this mass; 1: off"),
    "min_p": (float, "keep tokens with at least this part of the most probable one's probability; 0: off"),
    "repetition_penalty": (float, "divides logits of tokens that stand in prompt or answer; 1: off"),
    "presence_penalty": (float, "subtracted from logits of tokens that stand in the answer; 0: off"),
    "frequency_penalty": (float, "subtracted for each time that a token stands in the answer; 0: off"),
}
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def add_decoding_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every command that decodes. Defaults are the model's own, else those of `Sampling`."""
    parser.add_argument("--target", help="Hugging Face id, directory or GGUF file (default: embedded SmolLM2-135M)")
    parser.add_argument("--head", help="directory or Hugging Face id of a draft head (default: the shipped one)")
    parser.add_argument("--tree", default="auto", help=f"{', '.join(POLICIES)}; fields: eagle:num_nodes=16,depth=5")
    parser.add_argument(
        "--lookup", action="store_true", help="trees also hold what followed the text's end before, in prompt or answer"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="auto: bfloat16 where it is native")
    parser.add_argument("--device", help="such as cuda or cpu (default: the first accelerator, or cpu)")
    add_loading_flags(parser)
    for name, (kind, explained) in SAMPLING_FLAGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=explained)
    parser.add_argument(
        "--generation-config",
        choices=("auto", "none"),
        default="auto",
        help="auto: flags that are not given are as the model's generation_config has them; none: it is not read",
    )
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
    given = given_sampling(args)
    sampling = Sampling(**given)  # before loading: a typing error should cost nothing
    options = DecodeOptions(sampling, args.max_new_tokens, args.verifier or AUTO)
    policy = parse_policy(args.tree)
    told = {"system": args.system, "template": args.template, "stop": args.stop, "seed": args.seed}
    if not plain and has_levels(args):
        chosen = levels_from_flags(args, DTYPES[args.dtype], target)
        drafter, own = chosen.drafter(args.notices.append), chosen.candidates
        options = _with_the_models_own(options, given, own.target, args)
        return Chat(own.target, drafter=drafter, options=options, check_length=own.check_room, **told)
    if not plain:
        check_pair(policy, options.verifier, sampling, args.lookup)
    target = target or load_target(args.target, DTYPES[args.dtype], args.device, **loading_options(args))
    options = _with_the_models_own(options, given, target, args)
    lookup = LookupDrafter() if args.lookup and not plain else None
    return Chat(target, None if plain else load_head(args.head, target), policy, options, lookup=lookup, **told)


def given_sampling(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of `Sampling` that flags name; the others are the model's own, or as usual."""
    return {name: getattr(args, name) for name in SAMPLING_FLAGS if getattr(args, name) is not None}


def _with_the_models_own(
    options: DecodeOptions, given: dict[str, Any], target: Target, args: argparse.Namespace
) -> DecodeOptions:
    """What no flag says is as the model's generation_config has it; the cap on answers is a flag's."""
    if args.generation_config == "none":
        return options
    own = options_of(target)
    return replace(options, sampling=replace(own.sampling, **given), stop=own.stop)


def show_settings(console: Console, chat: Chat) -> None:
    """One line: what runs, where, and in which precision."""
    target, sampling = chat.target, chat.options.sampling
    threads = f", {torch.get_num_threads()} threads" if target.device.type == "cpu" else ""
    precision = dtype_name(target.dtype) + (", compiled passes" if target.small_pass is not None else "")
    console.print(
        f"{target.name} on {target.device}{threads}, {precision}, {told_sampling(sampling)}",
        style="dim",
        soft_wrap=True,
    )
    drafter = chat.session.drafter
    if isinstance(drafter, EagleDrafter) and drafter.head.fit is None:
        console.print(NO_NUMBERS, style="dim")
    if chat.is_plain:
        console.print(PLAIN_IS_FASTER, style="dim")
    if levels := levels_of(drafter):
        console.print(f"levels: {' <- '.join(f'{one.name} ({one.buffer})' for one in levels)}", style="dim")


def told_sampling(sampling: Sampling) -> str:
    """The temperature, and what else is not as usual."""
    usual = Sampling()
    others = [
        name for name in SAMPLING_FLAGS if name != "temperature" and getattr(sampling, name) != getattr(usual, name)
    ]
    changed = "".join(f", {name.replace('_', ' ')} {getattr(sampling, name):g}" for name in others)
    return f"temperature {sampling.temperature:g}{changed}"


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
