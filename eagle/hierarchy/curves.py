"""Two curves that a hierarchy of drafters is planned with: what a pass costs, and how long a window survives.

Letters: n tokens of a window, a accepted tokens, S survival.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from eagle.options import Limits, check_options

MOST_TOKENS = 4096  # of a window: more is a typing error
MOST_MS = 1e9  # of a pass, eleven days: sums of larger ones would overflow
HALVINGS = 60  # of an interval: to the precision of a float


@dataclass(frozen=True)
class CostCurve:
    """Milliseconds against tokens: linear in between, level below the first, on with the last slope beyond."""

    tokens: tuple[int, ...]  # ascending
    ms: tuple[float, ...]  # never falling: noise must not make tokens free

    def __post_init__(self) -> None:
        check_options(self)
        if len(self.tokens) != len(self.ms) or not self.tokens:
            raise ValueError(
                f"tokens and ms have {len(self.tokens)} and {len(self.ms)} values: give as many, at least 1"
            )
        if self.tokens[0] < 0 or any(a >= b for a, b in zip(self.tokens, self.tokens[1:], strict=False)):
            raise ValueError(f"tokens are {self.tokens}, they must ascend from at least 0")
        if self.ms[0] < 0 or any(a > b for a, b in zip(self.ms, self.ms[1:], strict=False)):
            raise ValueError(f"ms are {self.ms}, they must not be negative or fall: take CostCurve.rising")
        Limits(at_most=MOST_MS).check(self.ms[-1], f"ms ends with {self.ms[-1]}")

    @classmethod
    def rising(cls, tokens: Sequence[int], ms: Sequence[float]) -> "CostCurve":
        """The curve of noisy times: a larger pass takes at least as long as every smaller one."""
        return cls(tuple(tokens), tuple(max(ms[: i + 1]) for i in range(len(ms))))

    def at(self, num_tokens: int) -> float:
        right = min(bisect_right(self.tokens, num_tokens), len(self.tokens) - 1)
        if right == 0:
            return self.ms[0]
        (n0, n1), (ms0, ms1) = self.tokens[right - 1 : right + 1], self.ms[right - 1 : right + 1]
        return ms0 + (ms1 - ms0) * (num_tokens - n0) / (n1 - n0)


@dataclass(frozen=True)
class Survival:
    """S(a) = Pr(the first a tokens of a window are accepted), a = 1 .. the longest window that was measured.

    Rounds start at hard places and long windows survive more often than alpha^a, so that one number will not do.
    """

    reached: tuple[float, ...]

    def __post_init__(self) -> None:
        check_options(self)
        steps = zip((1.0, *self.reached), (*self.reached, 0.0), strict=True)
        if not self.reached or any(b > a for a, b in steps) or self.reached[-1] < 0:
            raise ValueError(f"a survival curve is {self.reached}, it must fall from at most 1 to at least 0")

    @classmethod
    def geometric(cls, alpha: float, num_tokens: int) -> "Survival":
        """The curve of tokens that are accepted independently of each other, each with `alpha`."""
        return cls(tuple(alpha**a for a in range(1, num_tokens + 1)))

    def at(self, num_tokens: int) -> float:
        """S(a). Beyond what was measured it falls at its mean rate, which is rather too fast: hazards decline."""
        measured = len(self.reached)
        if num_tokens == 0:
            return 1.0
        return self.reached[num_tokens - 1] if num_tokens <= measured else self.reached[-1] ** (num_tokens / measured)

    def accepted(self, window: int) -> float:
        """Expected accepted tokens of a window."""
        return sum(self.at(a) for a in range(1, window + 1))

    @cached_property
    def alpha(self) -> float:
        """The acceptance of one token with which a geometric curve of this length accepts as many tokens."""
        return alpha_of(sum(self.reached), len(self.reached))

    def shifted(self, shift: float) -> "Survival":
        """The curve where every token is accepted more often by `shift`, given that those before it were."""
        reached, survived, before = [], 1.0, 1.0
        for now in self.reached:
            conditional = now / before if before > 0 else 0.0
            survived *= min(max(conditional + shift, 0.0), 1.0)
            reached.append(survived)
            before = now
        return Survival(tuple(reached))


def alpha_of(accepted: float, window: int) -> float:
    """Of a geometric curve: the acceptance of one token with which a window has so many accepted, 0 .. window."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = sum(middle**a for a in range(1, window + 1)) >= accepted
        low, high = (low, middle) if enough else (middle, high)
    return (low + high) / 2


def falling(values: Sequence[float], weights: Sequence[float]) -> tuple[float, ...]:
    """The never-rising sequence nearest to `values` in weighted squares (pool adjacent violators).

    Not the running minimum: that lets one low noisy value pull down all that follow, and so is biased.
    """
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            (mean, heavy, length), (other, light, more) = pools[-2:]
            total = heavy + light
            merged = min((mean * heavy + other * light) / total, other) if total else mean  # rounding exceeds nothing
            pools[-2:] = [(merged, total, length + more)]
    return tuple(mean for mean, _, length in pools for _ in range(length))
