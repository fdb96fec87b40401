"""Candidates of a hierarchy and how often they accept each other's tokens.

Model        can be a level anywhere: it verifies what the level below hands up, or generates at the bottom
Proposer     can only be level 0: a head on its model, a lookup
Acceptance   of a pair, as counts of every prompt or as an assumed curve
"""

from collections.abc import Sequence
from dataclasses import dataclass

from eagle.hierarchy.curves import MOST_MS, MOST_TOKENS, CostCurve, Survival, falling
from eagle.options import Limits, check_options, option

Counts = tuple[tuple[int, ...], ...]  # a row a prompt, a column a place in the window: 1, 2, ..


@dataclass(frozen=True)
class Model:
    """A language model. A pass over n tokens reads them beside the one that is pending: n = 0 is a plain token."""

    name: str
    token_ms: float  # a plain token
    pass_ms: CostCurve  # a pass over n tokens of a draft
    weight_bytes: int = option(0, "on the device", at_least=0)
    cache_bytes: int = option(0, "a token of context", at_least=0)

    def __post_init__(self) -> None:
        check_options(self)
        Limits(above=0, at_most=MOST_MS).check(self.token_ms, f"token_ms of {self.name} is {self.token_ms}")


@dataclass(frozen=True)
class Proposer:
    """What drafts without being a level of its own."""

    name: str
    draft_ms: CostCurve  # of a draft n tokens deep
    readers: tuple[str, ...] = ()  # the models it can draft for; empty: any
    nodes: int | None = option(None, "of its trees, without the root; none: chains", at_least=1, at_most=MOST_TOKENS)
    weight_bytes: int = option(0, "on the device", at_least=0)
    cache_bytes: int = option(0, "a token of context", at_least=0)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Acceptance:
    """How often `reader` accepts the first a tokens of a window of `source`: counted, or assumed.

    A window is as long as was asked for: where a proposer finds fewer tokens (a lookup), those it lacks were offered
    and not accepted. Only an end of text, of the answer or of the context makes a window shorter.
    """

    reader: str
    source: str
    offered: Counts = ()  # windows of at least a tokens
    accepted: Counts = ()  # those whose first a were accepted
    assumed: tuple[float, ...] = ()  # the survival curve itself, where nothing was counted

    def __post_init__(self) -> None:
        check_options(self)
        if bool(self.assumed) == bool(self.offered):
            raise ValueError(f"{self.told} needs either counts (offered, accepted) or an assumed curve, and not both")
        lengths = [len(row) for row in self.offered]
        if lengths != [len(row) for row in self.accepted] or (self.offered and not 0 < min(lengths) == max(lengths)):
            raise ValueError(f"{self.told}: offered and accepted need as many rows, all of one length, at least 1")
        for offered, accepted in zip(self.offered, self.accepted, strict=True):
            self._check_row(offered, accepted)
        if self.offered and not sum(row[0] for row in self.offered):
            raise ValueError(f"{self.told} has no window: measure at least one")
        self.survival()  # an assumed curve that rises is refused here

    @property
    def told(self) -> str:
        """The pair in a message."""
        return f"acceptance of {self.source} by {self.reader}"

    def _check_row(self, offered: tuple[int, ...], accepted: tuple[int, ...]) -> None:
        if any(not 0 <= a <= o for o, a in zip(offered, accepted, strict=True)):
            raise ValueError(f"{self.told}: {accepted} accepted of {offered}: from 0 to as many as were offered")
        if any(list(row) != sorted(row, reverse=True) for row in (offered, accepted)):
            raise ValueError(f"{self.told}: {offered} and {accepted} must not rise: who has a tokens has a - 1")

    def survival(self, weights: Sequence[float] | None = None) -> Survival:
        """The curve, with every prompt counted as often as `weights` says; cut where no window was as long."""
        if self.assumed:
            return Survival(self.assumed)
        offered, accepted = _sums(self.offered, weights), _sums(self.accepted, weights)
        known = [(a / o, o) for a, o in zip(accepted, offered, strict=True) if o > 0] or [(0.0, 1.0)]
        return Survival(falling([share for share, _ in known], [weight for _, weight in known]))


def _sums(counts: Counts, weights: Sequence[float] | None) -> list[float]:
    rows = counts if weights is None else [[w * c for c in row] for w, row in zip(weights, counts, strict=True)]
    return [float(sum(column)) for column in zip(*rows, strict=True)]
