"""What a hierarchy is planned from: all candidates, and the acceptance of every pair; a JSON file.

Acceptance belongs to the pair and not to the hierarchy, if it is measured from round starts on windows of the lower
one: K models need K(K-1)/2 curves. Where a pair has none, the one is never put on the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from eagle.hierarchy.candidates import Acceptance, Model, Proposer
from eagle.hierarchy.curves import Survival
from eagle.hierarchy.records import read_record, write_record
from eagle.options import check_options, did_you_mean

FORMAT = 1  # of the file: counts up when a field changes its meaning
Pair = tuple[str, str]  # reader and source


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
            if reader not in self._models:
                told = _known(reader, self._models)
                raise ValueError(f"proposer {proposer.name} drafts for {reader}, which is no model: {told}")

    def _check_pair(self, one: Acceptance) -> None:
        for name in (one.reader, one.source):
            if name not in self._rank:
                raise ValueError(f"{one.told}: no candidate is called {name}: {_known(name, self._rank)}")
        if self._rank[one.source] >= self._rank[one.reader] or one.reader in self._proposers:
            raise ValueError(f"{one.told}: only a larger model verifies a smaller one, by their order in models")
        proposer = self._proposers.get(one.source)
        if proposer and proposer.readers and one.reader not in proposer.readers:
            raise ValueError(f"{one.told}: it drafts for {', '.join(proposer.readers)} alone")
        if one.offered and len(one.offered) != len(self.prompts):
            raise ValueError(
                f"{one.told} has {len(one.offered)} rows for {len(self.prompts)} prompts: "
                "give a row for every prompt, zeros where it had no window"
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
            raise ValueError(f"no candidate is called {name}: {_known(name, self._rank)}")
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


def _known(name: str, names: Iterable[str]) -> str:
    known = list(names)
    return f"known are {', '.join(known)}{did_you_mean(name, known)}"
