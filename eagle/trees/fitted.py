"""What was measured of one draft head: how often its slots are accepted, and what a tree of each size is worth.

The numbers stand in `drafting.json` beside the head, written by `eagle-hsd trees fit`, and belong to its weights:
another head accepts other numbers of tokens. `eagle.planner` puts them together with the milliseconds of the machine.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from eagle.options import freeze_lists
from eagle.trees.coupled import CoupledValues
from eagle.trees.protocols import check_number
from eagle.trees.valued import Acceptance

FORMAT = 1  # counts up when a field changes its meaning


@dataclass(frozen=True)
class Expected:
    """Rounds of one kind of tree at one temperature, a number a node budget."""

    temperature: float
    tree: str  # "eagle" or "mixed", as in `eagle.trees.automatic`, or a name in `HeadFit.coupled`
    num_nodes: tuple[int, ...]  # node budgets with the root, ascending
    tau: tuple[float, ...]  # accepted tokens of a round, without the bonus token
    tau_low: tuple[float, ...]  # the same at the lower end of its 95 % interval over the deterministic tree
    steps: tuple[float, ...]  # draft steps of a round

    def __post_init__(self) -> None:
        freeze_lists(self)  # from JSON
        lengths = {name: len(getattr(self, name)) for name in ("num_nodes", "tau", "tau_low", "steps")}
        if not all(type(size) is int and size > 0 for size in self.num_nodes):
            raise ValueError(f"num_nodes is {self.num_nodes}, they must be whole numbers, at least 1")
        if min(lengths.values()) == 0 or len(set(lengths.values())) > 1:
            raise ValueError(f"lists must have one length, at least 1, these have {lengths}")
        for name in ("temperature", *lengths):
            values = getattr(self, name)
            for number in values if isinstance(values, tuple) else (values,):
                check_number(name, number)

    @property
    def by_size(self) -> dict[int, tuple[float, float]]:
        """Node budget -> accepted tokens and draft steps of a round."""
        return dict(zip(self.num_nodes, zip(self.tau, self.steps, strict=True), strict=True))

    @property
    def cautious(self) -> dict[int, tuple[float, float]]:
        """The same one standard error lower: half-way to the end of the 95 % interval."""
        taus = ((tau + low) / 2 for tau, low in zip(self.tau, self.tau_low, strict=True))
        return dict(zip(self.num_nodes, zip(taus, self.steps, strict=True), strict=True))


@dataclass(frozen=True)
class HeadFit:
    """All of it. Raises ValueError at construction where lists do not fit each other."""

    acceptance: Acceptance
    expected: tuple[Expected, ...]
    head: str  # fingerprint of the weights that were measured
    provenance: Mapping[str, Any] = field(default_factory=dict)  # contexts, draws, machine, versions, command
    # kinds of coupled tree by name, such as "coupled" and "deep"; empty: measured by a version without them
    coupled: Mapping[str, CoupledValues] = field(default_factory=dict)

    def at(self, temperature: float) -> dict[str, Expected]:
        """The trees measured at one temperature, by name."""
        return {rounds.tree: rounds for rounds in self.expected if rounds.temperature == temperature}

    @property
    def temperatures(self) -> tuple[float, ...]:
        return tuple(sorted({rounds.temperature for rounds in self.expected}))

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "HeadFit":
        """Raises ValueError for another format and for missing or unknown fields, naming them."""
        if values.get("format") != FORMAT:
            raise ValueError(f"format is {values.get('format')}, this version reads {FORMAT}: fit again")
        for part in ("acceptance", "expected", "coupled"):
            _check_numbers(part, values.get(part, ()))
        try:
            return cls(
                acceptance=Acceptance(**values["acceptance"]),
                expected=tuple(Expected(**rounds) for rounds in values["expected"]),
                head=values["head"],
                provenance=values["provenance"],
                coupled={name: CoupledValues(**own) for name, own in values.get("coupled", {}).items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a field is missing, unknown or of another type: {error}") from None


def _check_numbers(path: str, value: Any) -> None:
    """Raises ValueError for a number that is none: text, true, NaN or infinite. Names of trees are text."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name != "tree":
                _check_numbers(f"{path}.{name}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_numbers(path, inner)
    elif type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{path} holds {value!r}, it must be a number")
