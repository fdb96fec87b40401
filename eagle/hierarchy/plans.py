"""A plan: levels and buffers, what is predicted of them, and what would have to change for another choice."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from eagle.hierarchy.profiles import Pair
from eagle.hierarchy.records import read_record, write_record
from eagle.hierarchy.renewal import Level
from eagle.options import check_options, option

FORMAT = 1  # of the file: counts up when a field changes its meaning
Range = tuple[float, float]  # 95 % interval


@dataclass(frozen=True)
class Choice:
    """A hierarchy and its latency."""

    levels: tuple[Level, ...]  # from level 0 to the one below the target; empty: plain decoding
    ms_per_token: float = option(0.0, "expected", at_least=0)

    def __post_init__(self) -> None:
        check_options(self)

    def told(self, target: str) -> str:
        """From the target down: "target <- small (8) <- head (6)"."""
        below = (f"{level.name} ({level.buffer})" for level in reversed(self.levels))
        return " <- ".join([target, *below])


@dataclass(frozen=True)
class BreakEven:
    """How far the acceptance of one pair may fall before a simpler hierarchy is as fast. Curves and alphas as in
    `eagle.hierarchy.curves.Survival`; every token's acceptance is lowered by the same number."""

    reader: str
    source: str
    predicted: tuple[float, ...]  # survival curve
    alpha: float  # of the predicted curve
    curve: tuple[float, ...] = ()  # at break-even; empty: not even without any acceptance
    break_even_alpha: float | None = None
    fallback: Choice | None = None  # the simpler hierarchy, with its latency there

    def __post_init__(self) -> None:
        check_options(self)
        if bool(self.curve) != (self.fallback is not None) or bool(self.curve) != (self.break_even_alpha is not None):
            raise ValueError("a break-even has a curve, a break_even_alpha and a fallback, or none of them")

    @property
    def pair(self) -> Pair:
        return self.reader, self.source


@dataclass(frozen=True)
class Change:
    """What it would mean if one pair's acceptance were another by `shift` a token."""

    reader: str
    source: str
    shift: float
    ms_per_token: float  # of the plan as it is
    choice: Choice  # the best hierarchy then

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Plan:
    """Predictions are expected values of the profile it was made from; intervals resample its prompts."""

    target: str
    levels: tuple[Level, ...]
    ms_per_token: float = option(0.0, "predicted", above=0)
    tokens_per_pass: float = option(1.0, "predicted, of the target", at_least=1)
    passes: tuple[float, ...] = ()  # of every level for one of the target; of a proposer: its drafts
    plain_ms: float = option(0.0, "a plain token of the target", above=0)
    single: Choice | None = None  # the best single draft; None: the profile has none
    ms_range: Range | None = None
    tokens_range: Range | None = None
    break_evens: tuple[BreakEven, ...] = ()  # of every pair in it, from the bottom
    changes: tuple[Change, ...] = ()
    runners_up: tuple[Choice, ...] = ()
    weight_bytes: int = option(0, "of the target and all levels", at_least=0)
    cache_bytes: int = option(0, "of the same, a token of context", at_least=0)
    provenance: Mapping[str, Any] = field(default_factory=dict)  # of the profile

    def __post_init__(self) -> None:
        check_options(self)
        if len(self.passes) != len(self.levels):
            raise ValueError(f"passes has {len(self.passes)} values for {len(self.levels)} levels: give one a level")

    @property
    def choice(self) -> Choice:
        return Choice(self.levels, self.ms_per_token)

    @property
    def speedup(self) -> float:
        """Over plain decoding."""
        return self.plain_ms / self.ms_per_token

    @property
    def speedup_over_single(self) -> float:
        """Over the best single draft; over plain decoding where there is none."""
        return (self.single.ms_per_token if self.single else self.plain_ms) / self.ms_per_token

    def drafter(self, candidates: Any = None) -> Any:
        """What drafts as the plan says, an `eagle.levels.planned.PlannedDrafter`: falls back where it no longer pays.

        candidates: the models (`eagle.levels.loaded.load_candidates`); None: loaded as the profile's were. Raises
        ValueError where the plan does not say what from, and for levels that are not among them.
        """
        if candidates is None:  # modules by name: planning loads no torch
            candidates = import_module("eagle.levels.opening").open_again(self)
        return import_module("eagle.levels.planned").PlannedDrafter(self, candidates)

    def write(self, path: Path) -> None:
        write_record(path, self, FORMAT)

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Raises ValueError or OSError that names the file and what is wrong in it."""
        return read_record(cls, path, FORMAT, "restore it from a copy, or plan again")
