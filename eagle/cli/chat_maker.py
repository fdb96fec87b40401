"""Conversations over models that flags name: loaded once, shared by all of them."""

import argparse
from dataclasses import dataclass
from typing import Any

from eagle.chat import Chat
from eagle.cli.common import DTYPES, chat_from_flags, given_sampling
from eagle.cli.level_flags import has_levels, levels_from_flags
from eagle.decode import DecodeOptions
from eagle.drafters.head import DraftHead
from eagle.drafters.lookup import LookupDrafter
from eagle.engine.target import Target
from eagle.judging import AUTO
from eagle.levels.chosen import ChosenLevels
from eagle.load_options import loading_options
from eagle.loading import load_head, load_target
from eagle.pairing import check_pair
from eagle.sampling import Sampling
from eagle.web.answer_settings import AnswerSettings


@dataclass(frozen=True)
class LoadedModels:
    """What the flags name. Chats of it have caches of their own; target, head and levels are shared."""

    args: argparse.Namespace
    target: Target
    options: DecodeOptions  # of flags and model, for what the settings of an answer leave open
    head: DraftHead | None = None  # None: plain decoding, or levels
    levels: ChosenLevels | None = None

    def make(self, settings: AnswerSettings, plain: bool = False) -> Chat:
        """Raises ValueError for a tree and a verifier that do not fit."""
        told: dict[str, Any] = {"options": settings.over(self.options), "system": settings.system or None}
        told |= {"template": self.args.template, "stop": self.args.stop, "seed": settings.seed}
        if plain or (self.head is None and self.levels is None):
            return Chat(self.target, **told)
        if self.levels is not None:
            drafter, own = self.levels.drafter(self.args.notices.append), self.levels.candidates
            return Chat(self.target, drafter=drafter, check_length=own.check_room, **told)
        lookup = LookupDrafter() if self.args.lookup else None
        return Chat(self.target, self.head, settings.policy, lookup=lookup, **told)

    @property
    def settings(self) -> AnswerSettings:
        """What answers are decoded with where nobody says otherwise."""
        args, options = self.args, self.options
        return AnswerSettings(
            temperature=options.sampling.temperature,
            top_k=options.sampling.top_k,
            top_p=options.sampling.top_p,
            verifier=options.verifier,
            tree=args.tree,
            seed=args.seed,
            system=args.system or "",
            max_new_tokens=args.max_new_tokens,
        )


def check_flags(args: argparse.Namespace) -> None:
    """Raises ValueError for values outside their range and pairs that do not fit, before anything is loaded."""
    options = DecodeOptions(Sampling(**given_sampling(args)), args.max_new_tokens, args.verifier or AUTO)
    settings = AnswerSettings(tree=args.tree, max_new_tokens=args.max_new_tokens)
    if not has_levels(args) and not args.plain:
        check_pair(settings.policy, options.verifier, options.sampling, args.lookup)


def models_from_flags(args: argparse.Namespace) -> LoadedModels:
    """Raises as loading does."""
    dtype = DTYPES[args.dtype]
    levels = levels_from_flags(args, dtype, None) if has_levels(args) and not args.plain else None
    target = (
        levels.candidates.target if levels else load_target(args.target, dtype, args.device, **loading_options(args))
    )
    head = None if args.plain or levels else load_head(args.head, target)
    return LoadedModels(args, target, chat_from_flags(args, plain=True, target=target).options, head, levels)
