"""While a plan runs: predicted against measured acceptance, and when a simpler plan is the better one.

`Watch` counts every round of every level. Its alarm is a sequential test of "this pair accepts at least what it needs
at break-even": bets against that are made round after round, a new one opened in each (Shiryaev and Roberts'
procedure). Under the statement the sum of their values grows by at most 1 a round in expectation, so that

    Pr(alarm within the first n rounds of every level) <= n x false_alarms

for n fixed beforehand, however often one looks, whatever the laws and dependencies of rounds are: all it takes is that
the expected acceptance of each round, given the past, is not below that of the break-even curve. Few rounds cannot
raise it: the limit 1 / false_alarms has to be reached first.
"""

from dataclasses import dataclass, field

from eagle.hierarchy.curves import Survival, falling
from eagle.hierarchy.plans import BreakEven, Choice, Plan
from eagle.hierarchy.profiles import Pair
from eagle.options import Limits

BETS = (0.1, 0.3, 0.9)  # shares of what may be staked; they find small, middle and large losses
MEMORY = 64  # rounds after which a count has e times less weight in the running curve
FALSE_ALARMS = 1e-5  # a round


@dataclass(frozen=True)
class Fallback:
    """The simpler plan that is faster now, and why."""

    reader: str
    source: str
    rounds: int  # seen of the pair
    alpha: float  # running acceptance a token
    break_even_alpha: float
    choice: Choice

    def told(self, target: str) -> str:
        return (
            f"{self.reader} accepts {self.alpha:.2f} a token of {self.source}, below the break-even of "
            f"{self.break_even_alpha:.2f} (after {self.rounds} rounds): going on with {self.choice.told(target)}"
        )


@dataclass(frozen=True)
class Compared:
    """Predicted against measured, of one pair."""

    reader: str
    source: str
    rounds: int
    predicted: Survival
    running: Survival  # 0 before the first round


@dataclass
class _Pair:
    """Counts of one pair; those of the running curve fade."""

    expected: BreakEven
    rounds: int = 0
    offered: list[float] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    stakes: list[float] = field(default_factory=lambda: [0.0] * len(BETS))

    def __post_init__(self) -> None:
        self.needed = Survival(self.expected.curve) if self.expected.curve else None  # at break-even

    @property
    def evidence(self) -> float:
        return sum(self.stakes) / len(self.stakes)

    def count(self, window: int, num_accepted: int, keep: float) -> None:
        self.rounds += 1
        longer = [0.0] * (window - len(self.offered))
        self.offered, self.accepted = self.offered + longer, self.accepted + longer
        for place in range(len(self.offered)):
            self.offered[place] = keep * self.offered[place] + (place < window)
            self.accepted[place] = keep * self.accepted[place] + (place < num_accepted)

    def bet(self, window: int, num_accepted: int) -> None:
        """A stake grows by what the round lost against break-even; at most all of it is lost."""
        needed = self.needed.accepted(window) if self.needed else 0.0
        if 0 < needed < window:
            loss = (needed - num_accepted) / (window - needed)
            self.stakes = [(stake + 1) * (1 + bet * loss) for stake, bet in zip(self.stakes, BETS, strict=True)]

    def curve(self) -> Survival:
        """0 before the first round."""
        seen = [(a / o, o) for a, o in zip(self.accepted, self.offered, strict=True) if o > 0]
        return Survival(falling([share for share, _ in seen], [weight for _, weight in seen]) or (0.0,))


class Watch:
    """Of one plan while it runs. After a fallback a new one is made, for the plan that runs then."""

    def __init__(self, plan: Plan, memory: float = MEMORY, false_alarms: float = FALSE_ALARMS):
        """Raises ValueError for a `memory` below 1 and `false_alarms` outside of 0 to 1."""
        Limits(at_least=1).check(memory, f"memory is {memory}")
        Limits(above=0, below=1).check(false_alarms, f"false_alarms is {false_alarms}")
        self._pairs: dict[Pair, _Pair] = {one.pair: _Pair(one) for one in plan.break_evens}
        self._keep = 1 - 1 / memory
        self._limit = max(len(self._pairs), 1) / false_alarms  # shared among the pairs

    def count(self, reader: str, source: str, window: int, num_accepted: int) -> None:
        """A round: `reader` accepted so many of a window of `source`, which is as long as
        `eagle.hierarchy.candidates.Acceptance` says. An empty window says nothing.

        Raises ValueError for a pair that the plan does not have, and for more accepted than there were.
        """
        pair = self._pair(reader, source)
        if not 0 <= num_accepted <= window:
            raise ValueError(f"{num_accepted} of {window} tokens were accepted: from 0 to all of them")
        if window:
            pair.count(window, num_accepted, self._keep)
            pair.bet(window, num_accepted)

    def compared(self) -> list[Compared]:
        """Of every pair, from the bottom."""
        return [
            Compared(*one.expected.pair, one.rounds, Survival(one.expected.predicted), one.curve())
            for one in self._pairs.values()
        ]

    def fallback(self) -> Fallback | None:
        """The plan to go on with at the next end of a round; None while this one holds.

        Of several alarms the one that leads to the simplest plan: what runs below is then gone as well.
        """
        found = [self._told(one) for one in self._pairs.values() if one.evidence >= self._limit]
        return min(found, key=lambda one: len(one.choice.levels), default=None)

    def _pair(self, reader: str, source: str) -> _Pair:
        if (reader, source) not in self._pairs:
            raise ValueError(f"{source} under {reader} is not in the plan: it has {sorted(self._pairs)}")
        return self._pairs[reader, source]

    def _told(self, one: _Pair) -> Fallback:
        expected = one.expected
        assert expected.fallback is not None and expected.break_even_alpha is not None  # no bet without them
        return Fallback(*expected.pair, one.rounds, one.curve().alpha, expected.break_even_alpha, expected.fallback)
