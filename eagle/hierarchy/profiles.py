"""What a hierarchy is planned from: candidates, what they cost, how often they accept each other's tokens.

    Model        can be a level anywhere: it verifies what the level below hands up, or generates at the bottom
    Proposer     can only be level 0: a head on its model, a lookup
    Acceptance   of a pair, as counts of every prompt or as an assumed curve
    Profile      all of it; a JSON file

Acceptance belongs to the pair and not to the hierarchy, if it is measured from round starts on windows of the lower
one: K models need K(K-1)/2 curves. Where a pair has none, the one is never put on the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from eagle.hierarchy.curves import MOST_TOKENS, CostCurve, Survival, falling
from eagle.hierarchy.records import read_record, write_record
from eagle.options import check_options, did_you_mean

FORMAT = 1  # of the file: counts up when a field changes its meaning
Counts = tuple[tuple[int, ...], ...]  # a row a prompt, a column a place in the window: 1, 2, ..
Pair = tuple[str, str]  # reader and source


@dataclass(frozen=True)
class Model:
    """A language model. A pass over n tokens reads them beside the one that is pending: n = 0 is a plain token."""

    name: str
    token_ms: float  # a plain token
    pass_ms: CostCurve  # a pass over n tokens of a draft
    weight_bytes: int = 0
    cache_bytes: int = 0  # a token of context

    def __post_init__(self) -> None:
        check_options(self)
        _at_least_zero(self, "token_ms", "weight_bytes", "cache_bytes")
        if self.token_ms == 0:
            raise ValueError(f"token_ms of {self.name} is 0, it must be larger than 0")


@dataclass(frozen=True)
class Proposer:
    """What drafts without being a level of its own. With `nodes` it proposes a tree of as many, without the root;
    without, a chain."""

    name: str
    draft_ms: CostCurve  # of a draft n tokens deep
    readers: tuple[str, ...] = ()  # the models it can draft for; empty: any
    nodes: int | None = None
    weight_bytes: int = 0
    cache_bytes: int = 0  # a token of context

    def __post_init__(self) -> None:
        check_options(self)
        _at_least_zero(self, "weight_bytes", "cache_bytes")
        if self.nodes is not None and not 1 <= self.nodes <= MOST_TOKENS:
            raise ValueError(f"nodes of {self.name} is {self.nodes}, it must be from 1 to {MOST_TOKENS}")


@dataclass(frozen=True)
class Acceptance:
    """How often `reader` accepts the first a tokens of a window of `source`: counted, or assumed."""

    reader: str
    source: str
    offered: Counts = ()  # windows of at least a tokens
    accepted: Counts = ()  # those whose first a were accepted
    assumed: tuple[float, ...] = ()  # the survival curve itself, where nothing was counted

    def __post_init__(self) -> None:
        check_options(self)
        pair = f"acceptance of {self.source} by {self.reader}"
        if bool(self.assumed) == bool(self.offered):
            raise ValueError(f"{pair} needs either counts (offered, accepted) or an assumed curve, and not both")
        if [len(row) for row in self.offered] != [len(row) for row in self.accepted] or not self._is_rectangle():
            raise ValueError(f"{pair}: offered and accepted must have as many rows, all of one length, at least 1")
        for offered, accepted in zip(self.offered, self.accepted, strict=True):
            if any(not 0 <= a <= o for o, a in zip(offered, accepted, strict=True)):
                raise ValueError(f"{pair}: accepted {accepted} of {offered} offered: from 0 to as many as were offered")
            if any(list(row) != sorted(row, reverse=True) for row in (offered, accepted)):
                raise ValueError(f"{pair}: {offered} and {accepted} must not rise: who has a tokens has a - 1")
        if self.offered and not sum(row[0] for row in self.offered):
            raise ValueError(f"{pair} has no window: measure at least one")
        self.survival()  # an assumed curve that rises is refused here

    def _is_rectangle(self) -> bool:
        return not self.offered or (len({len(row) for row in self.offered}) == 1 and len(self.offered[0]) > 0)

    def survival(self, weights: Sequence[float] | None = None) -> Survival:
        """The curve, with every prompt counted as often as `weights` says; cut where no window was as long."""
        if self.assumed:
            return Survival(self.assumed)
        offered, accepted = _sums(self.offered, weights), _sums(self.accepted, weights)
        known = [(a / o, o) for a, o in zip(accepted, offered, strict=True) if o > 0] or [(0.0, 1.0)]
        return Survival(falling([share for share, _ in known], [weight for _, weight in known]))


@dataclass(frozen=True)
class Profile:
    """Models from the smallest to the largest, the last of which is the target."""

    models: tuple[Model, ...]
    acceptances: tuple[Acceptance, ...] = ()
    proposers: tuple[Proposer, ...] = ()
    prompts: tuple[str, ...] = ()  # of the rows of all counts, in their order
    provenance: Mapping[str, Any] = field(default_factory=dict)  # contexts, machine, versions, command

    def __post_init__(self) -> None:
        check_options(self)
        if not self.models:
            raise ValueError("models is empty: name at least the target")
        names = [one.name for one in self._candidates]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two candidates are called {sorted(twice)[0]}: give each its own name")
        for proposer in self.proposers:
            self._check_readers(proposer)
        for acceptance in self.acceptances:
            self._check_pair(acceptance)
        pairs = [(one.reader, one.source) for one in self.acceptances]
        if twice_measured := {pair for pair in pairs if pairs.count(pair) > 1}:
            raise ValueError("acceptance of {1} by {0} stands twice: keep one".format(*sorted(twice_measured)[0]))

    def _check_readers(self, proposer: Proposer) -> None:
        for reader in proposer.readers:
            if reader not in self._rank or reader in self._proposers:
                known = [model.name for model in self.models]
                told = f"known are {', '.join(known)}{did_you_mean(reader, known)}"
                raise ValueError(f"proposer {proposer.name} drafts for {reader}, which is no model: {told}")

    def _check_pair(self, one: Acceptance) -> None:
        for name in (one.reader, one.source):
            if name not in self._rank:
                told = f"known are {', '.join(self._rank)}{did_you_mean(name, self._rank)}"
                raise ValueError(f"acceptance of {one.source} by {one.reader}: no candidate is called {name}: {told}")
        if self._rank[one.source] >= self._rank[one.reader] or one.reader in self._proposers:
            raise ValueError(f"acceptance of {one.source} by {one.reader}: only a larger model verifies a smaller one")
        proposer = self._proposers.get(one.source)
        if proposer and proposer.readers and one.reader not in proposer.readers:
            raise ValueError(f"acceptance of {one.source} by {one.reader}: it drafts for {', '.join(proposer.readers)}")
        if one.offered and len(one.offered) != len(self.prompts):
            raise ValueError(
                f"acceptance of {one.source} by {one.reader} has {len(one.offered)} rows for "
                f"{len(self.prompts)} prompts: give a row for every prompt, zeros where it had no window"
            )

    @property
    def _candidates(self) -> tuple[Model | Proposer, ...]:
        return *self.proposers, *self.models

    @cached_property
    def _proposers(self) -> dict[str, Proposer]:
        return {one.name: one for one in self.proposers}

    @cached_property
    def _models(self) -> dict[str, Model]:
        return {one.name: one for one in self.models}

    @cached_property
    def _rank(self) -> dict[str, int]:
        return {one.name: rank for rank, one in enumerate(self._candidates)}

    @property
    def target(self) -> Model:
        return self.models[-1]

    @cached_property
    def survivals(self) -> dict[Pair, Survival]:
        """Curves of all pairs, by reader and source."""
        return {(one.reader, one.source): one.survival() for one in self.acceptances}

    def candidate(self, name: str) -> Model | Proposer:
        """Raises ValueError for a name of none, with the known ones."""
        found = self._models.get(name) or self._proposers.get(name)
        if found is None:
            known = f"known are {', '.join(self._rank)}{did_you_mean(name, self._rank)}"
            raise ValueError(f"no candidate is called {name}: {known}")
        return found

    def sources(self, reader: str) -> list[str]:
        """What a model can verify the tokens of, proposers first, then models from the smallest."""
        return [name for name in self._rank if (reader, name) in self.survivals]

    def survival(self, reader: str, source: str) -> Survival:
        """Raises ValueError where the pair was not measured."""
        if (reader, source) not in self.survivals:
            raise ValueError(f"acceptance of {source} by {reader} is not known: measure the pair")
        return self.survivals[reader, source]

    def draft_ms(self, source: str, num_tokens: int) -> float:
        """Of `num_tokens` tokens at level 0: a model's own tokens one by one, a proposer's draft."""
        one = self.candidate(source)
        return num_tokens * one.token_ms if isinstance(one, Model) else one.draft_ms.at(num_tokens)

    def pass_ms(self, reader: str, source: str, num_tokens: int) -> float:
        """Of a pass of `reader` over a window of `source`; of a tree all nodes are scored, however deep it is."""
        nodes = self._proposers[source].nodes if source in self._proposers else None
        return self._models[reader].pass_ms.at(max(num_tokens, nodes or 0))

    def with_curves(self, survivals: Mapping[Pair, Survival]) -> "Profile":
        """The same candidates with other curves for some pairs; nothing is counted any more."""
        curves = {**self.survivals, **survivals}
        pairs = tuple(Acceptance(r, s, assumed=curve.reached) for (r, s), curve in curves.items())
        return replace(self, acceptances=pairs, prompts=())

    def shifted(self, pair: Pair, shift: float) -> "Profile":
        """The profile where one pair's tokens are accepted more often by `shift`."""
        return self.with_curves({pair: self.survival(*pair).shifted(shift)})

    def resampled(self, pairs: Iterable[Pair], weights: Sequence[float]) -> "Profile":
        """The profile that prompts drawn anew would give for these pairs: every prompt counts `weights` times."""
        counted = {(one.reader, one.source): one for one in self.acceptances if one.offered}
        return self.with_curves({pair: counted[pair].survival(weights) for pair in pairs if pair in counted})

    def write(self, path: Path) -> None:
        write_record(path, self, FORMAT)

    @classmethod
    def read(cls, path: Path) -> "Profile":
        """Raises ValueError or OSError that names the file and what is wrong in it."""
        return read_record(cls, path, FORMAT, "restore it from a copy, or measure the profile again")


def _at_least_zero(one: Any, *names: str) -> None:
    for name in names:
        if getattr(one, name) < 0:
            raise ValueError(f"{name} of {one.name} is {getattr(one, name)}, it must be at least 0")


def _sums(counts: Counts, weights: Sequence[float] | None) -> list[float]:
    rows = counts if weights is None else [[w * c for c in row] for w, row in zip(weights, counts, strict=True)]
    return [float(sum(column)) for column in zip(*rows, strict=True)]
