"""Levels as text: `small=ID:buffer=8,head=DIR`, `copy=int8`, `lookup`.

NAME=SOURCE       a model: Hugging Face id, directory or GGUF file
copy=PRECISION    the target's own weights in a lower precision, with the target's head
lookup            what followed the end of the text before, without a model
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_type_hints

from eagle.hierarchy.curves import MOST_TOKENS
from eagle.options import build, check_options, option
from eagle.typed import read_word

LOOKUP, COPY, TARGET, HEAD = "lookup", "copy", "target", "head"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# of a copy, on a CPU and on an accelerator: names in `eagle.load_options`; fp8 needs compute capability 8.9
PRECISIONS = {
    "int8": ("cpu-int8", "torchao-int8"),
    "int4": ("cpu-int4", "torchao-int4"),
    "fp8": ("torchao-fp8", "torchao-fp8"),
}
HEAD_NODES = (8, 16)  # sizes of a head's trees that are profiled
GRAMMAR = "write NAME=SOURCE, copy=int8 or lookup, then :buffer=8,head=DIR"


@dataclass(frozen=True)
class ModelSpec:
    """A model that can be a level."""

    name: str
    source: str | None = None  # None: a copy of the target
    precision: str | None = option(None, "of a copy", choices=tuple(PRECISIONS))
    buffer: int = option(8, "tokens to hand up at least", at_least=1, at_most=MOST_TOKENS)
    head: str | None = option(None, "its draft head, directory or Hugging Face id")
    nodes: tuple[int, ...] = option(HEAD_NODES, "sizes of its head's trees to profile, as 8+16", at_least=2)

    def __post_init__(self) -> None:
        check_options(self)
        if not NAME.fullmatch(self.name) or self.name in (TARGET, HEAD, LOOKUP, COPY):
            raise ValueError(
                f"a level is called '{self.name}': take letters, digits, '_' and '-', and none of "
                f"{TARGET}, {HEAD}, {LOOKUP}, {COPY}"
            )


@dataclass(frozen=True)
class LookupSpec:
    """A lookup as the lowest level."""

    buffer: int = option(8, "tokens of a draft", at_least=1, at_most=MOST_TOKENS)
    most: int = option(4, "tokens of a match at most", at_least=1, at_most=64)
    least: int = option(2, "tokens of a match at least", at_least=1, at_most=64)
    name: str = LOOKUP

    def __post_init__(self) -> None:
        check_options(self)


LevelSpec = ModelSpec | LookupSpec


def parse_level(text: str) -> LevelSpec:
    """Raises ValueError that quotes the text, for what is no level and for fields that it does not have."""
    try:
        return _parsed(text)
    except ValueError as error:
        raise ValueError(f"level '{text}': {error}") from None


def parse_levels(texts: Sequence[str]) -> tuple[LevelSpec, ...]:
    """Several, each with a name of its own."""
    specs = tuple(map(parse_level, texts))
    names = [spec.name for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two levels are called '{twice[0]}': give each its own name")
    return specs


def _parsed(text: str) -> LevelSpec:
    first, fields = _split(text)
    name, equals, source = first.partition("=")
    if not equals and name == LOOKUP:
        return build(LookupSpec, _typed(LookupSpec, fields))
    if not equals or not source:
        raise ValueError(GRAMMAR)
    given = _typed(ModelSpec, fields)
    if name == COPY:
        return build(ModelSpec, {"name": f"{COPY}-{source}", "precision": source, **given})
    return build(ModelSpec, {"name": name, "source": source, **given})


def _split(text: str) -> tuple[str, dict[str, str]]:
    """What a level is, and its fields: each begins behind a ':' or ',' that FIELD= follows, for ids may hold both."""
    parts = re.split(r"[:,](?=[a-z]+=)", text.strip())
    fields = dict(part.partition("=")[::2] for part in parts[1:])
    if len(fields) < len(parts) - 1:
        raise ValueError("a field stands twice: give it once")
    return parts[0], fields


def _typed(kind: type, words: dict[str, str]) -> dict[str, object]:
    """Fields as their types have them. Raises ValueError for those that are not written by hand."""
    if unknown := [name for name in words if name not in BY_HAND[kind]]:
        raise ValueError(f"unknown field {', '.join(unknown)}: known are {', '.join(BY_HAND[kind])}")
    hints = get_type_hints(kind)
    return {name: read_word(word.split("+") if name == "nodes" else word, hints[name]) for name, word in words.items()}


BY_HAND = {ModelSpec: ("buffer", "head", "nodes"), LookupSpec: ("buffer", "most", "least")}
