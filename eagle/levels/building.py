"""A drafter from names and buffers: `target <- small (8) <- small.head (6)`."""

from collections.abc import Callable
from typing import Any

from eagle.drafters.counted import CountedDrafter, Heard
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.level import LevelDrafter
from eagle.drafters.lookup import LookupDrafter
from eagle.drafters.none import NoDrafter
from eagle.drafters.protocol import Drafter
from eagle.hierarchy.curves import MOST_TOKENS
from eagle.hierarchy.renewal import Hierarchy, Level
from eagle.levels.loaded import Candidates, HeadDraft
from eagle.levels.specs import LOOKUP, TARGET, LookupSpec, ModelSpec, parse_levels
from eagle.planner import plan
from eagle.trees import AutoTree

Told = Callable[[str, str], Heard | None]
"""Reader and source of a pair -> who hears of its windows, if anybody does."""


def hand_made(texts: tuple[str, ...], with_head: bool = False, beside: bool = False) -> Hierarchy:
    """The hierarchy of levels that were named by hand, largest first; the lowest one's head drafts where it has one.

    Raises ValueError for levels that do not stand on each other. `with_head`: of the target, for its copies; `beside`:
    a lookup stands beside the head.
    """
    specs = parse_levels(texts)
    if not specs:
        raise ValueError("no level is named: write --level small=ID:buffer=8,head=DIR")
    levels: list[Level] = []
    for spec in reversed(specs):
        if isinstance(spec, LookupSpec) and spec is not specs[-1]:
            raise ValueError("lookup stands above another level: it drafts without a model, so it can only be the last")
        if isinstance(spec, ModelSpec) and not levels and (spec.head or (with_head and spec.source is None)):
            levels.append(Level(HeadDraft(spec.name, beside=beside).name, MOST_TOKENS))  # as deep as its trees are
        levels.append(Level(spec.name, spec.buffer))
    if unused := [spec.name for spec in specs[:-1] if isinstance(spec, ModelSpec) and spec.head]:
        raise ValueError(f"the head of {unused[0]} is of no use: the level below drafts for it; leave one of them out")
    if beside and HeadDraft.of(levels[0].name) is None:
        raise ValueError("--lookup stands beside a head, and the lowest level has none: name --level lookup behind it")
    return tuple(levels)


def build_drafter(
    candidates: Candidates, levels: Hierarchy, told: Told | None = None, reader: str = TARGET
) -> CountedDrafter:
    """Levels from 0 to the one below `reader`, every pair counted where somebody wants to hear of it.

    Raises ValueError for no level, for names of none, and for a proposer above level 0 or for another model.
    """
    if not levels:
        raise ValueError("a plan without levels is plain decoding: leave --hierarchy out")
    if misplaced := [level.name for level in levels[1:] if level.name == LOOKUP or HeadDraft.of(level.name)]:
        raise ValueError(f"{misplaced[0]} stands above another level: it is no model, and can only be the lowest")
    drafter: CountedDrafter | None = None
    for level, above in zip(levels, [*(level.name for level in levels[1:]), reader], strict=True):
        own = _level(candidates, level, drafter, above)
        heard = told(above, level.name) if told else None
        depth = None if isinstance(own, LevelDrafter) else level.buffer
        drafter = CountedDrafter(own, heard, depth, candidates.model(above).end_token_ids)
    assert drafter is not None, "there is a level"
    return drafter


def _level(candidates: Candidates, level: Level, below: Drafter | None, reader: str) -> Drafter:
    if head := HeadDraft.of(level.name):
        return _head(candidates, head, reader)
    if level.name == LOOKUP:
        return _lookup(candidates, level.buffer)
    member, width = candidates.member(level.name), candidates.model(reader).vocab_size
    own = member.model
    return LevelDrafter(
        own,
        NoDrafter(own.device) if below is None else below,
        level.buffer,
        num_tokens=member.num_tokens,
        vocab_size=None if own.vocab_size == width else width,
        name=level.name,
    )


def _head(candidates: Candidates, head: HeadDraft, reader: str) -> Drafter:
    if head.model != reader:
        raise ValueError(f"the head of {head.model} drafts for {head.model} alone, and not for {reader}")
    model, own = candidates.model(head.model), candidates.head_of(head.model)
    lookup = _lookup(candidates) if head.beside else None
    return EagleDrafter(own, model.embed, plan(AutoTree(head.nodes), model, own), lookup)


def _lookup(candidates: Candidates, length: int | None = None) -> LookupDrafter:
    """As long as asked for, or as it was named."""
    spec = candidates.lookup or LookupSpec()
    return LookupDrafter(length or spec.buffer, spec.most, spec.least, candidates.target.device)


def levels_of(drafter: Drafter | None) -> list[LevelDrafter]:
    """The levels of a hierarchy, from the top."""
    found: list[LevelDrafter] = []
    below: Any = drafter
    while below is not None:
        if isinstance(below, LevelDrafter):
            found.append(below)
        below = getattr(below, "drafter", None)
    return found
