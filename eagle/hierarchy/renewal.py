"""What a hierarchy gives and costs, exactly: the law of the tokens that every level hands up.

A round of a level: the level below hands up a window, one pass verifies it, and the accepted tokens and one more
(correction or bonus) join the buffer. Level k goes on until the buffer holds at least T_k tokens. Rounds are taken as
independent, each with the pair's survival curve; so the tokens in the buffer are a renewal process, the number of
rounds is a stopping time, and costs follow from Wald: expected rounds times the expected cost of one. The buffer
overshoots T_k by up to a window, and the level above reads its curve at that random length. Not counted: ends of text,
and unread tails, which are folded into the next pass.

Letters: T buffer, n tokens of a window, a accepted tokens, f the law of the tokens of a round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from eagle.hierarchy.candidates import Model
from eagle.hierarchy.curves import MOST_TOKENS, Survival
from eagle.hierarchy.profiles import Profile
from eagle.options import check_options, option

Law = tuple[float, ...]  # of a number: its probability at 0, 1, 2, ..


@dataclass(frozen=True)
class Level:
    """A level below the target. At the bottom `buffer` is the length of a draft, above it the tokens to hand up."""

    name: str
    buffer: int = option(1, "tokens to hand up at least", at_least=1, at_most=MOST_TOKENS)

    def __post_init__(self) -> None:
        check_options(self)


@lru_cache(maxsize=1 << 16)
def level(name: str, buffer: int) -> Level:
    """The same object for the same level: a search asks for each of them hundreds of times."""
    return Level(name, buffer)


Hierarchy = tuple[Level, ...]  # from level 0 to the one below the target; empty: plain decoding


@dataclass(frozen=True)
class Flow:
    """One call of a level."""

    lengths: Law  # of the window it hands up
    ms: float
    passes: tuple[float, ...]  # of every level from 0 to this one


@dataclass(frozen=True)
class Estimate:
    """Expected values of a round of the target, and what follows."""

    ms_per_token: float
    tokens_per_pass: float  # of the target
    ms_per_pass: float  # with all that the levels below do for it
    passes: tuple[float, ...]  # of every level for one of the target; of a proposer: its drafts


class Renewal:
    """Evaluates hierarchies of one profile. What a level hands up depends on no level above it, so it is kept."""

    def __init__(self, profile: Profile):
        self.profile = profile
        self._flows: dict[Hierarchy, Flow] = {}

    def evaluate(self, levels: Hierarchy) -> Estimate:
        """Raises ValueError for an unknown candidate, a pair without a curve, and a proposer above level 0."""
        target = self.profile.target
        if not levels:
            return Estimate(target.token_ms, 1.0, target.token_ms, ())
        below = self._flow(levels)
        source = levels[-1].name
        tokens = mean(round_law(self.profile.survival(target.name, source), below.lengths))
        ms = below.ms + self._pass_ms(target.name, source, below.lengths)
        return Estimate(ms / tokens, tokens, ms, below.passes)

    def _flow(self, levels: Hierarchy) -> Flow:
        if levels not in self._flows:
            self._flows[levels] = self._collect(levels) if len(levels) > 1 else self._draft(levels[0])
        return self._flows[levels]

    def _draft(self, level: Level) -> Flow:
        passes = level.buffer if isinstance(self.profile.candidate(level.name), Model) else 1
        lengths = (0.0,) * level.buffer + (1.0,)
        return Flow(lengths, self.profile.draft_ms(level.name, level.buffer), (float(passes),))

    def _collect(self, levels: Hierarchy) -> Flow:
        reader, source = levels[-1], levels[-2].name
        below = self._flow(levels[:-1])
        f = round_law(self.profile.survival(reader.name, source), below.lengths)
        visited = visits(f, reader.buffer)
        rounds = sum(visited)
        ms = rounds * (below.ms + self._pass_ms(reader.name, source, below.lengths))
        return Flow(overshoot(f, visited), ms, (*(rounds * passes for passes in below.passes), rounds))

    def _pass_ms(self, reader: str, source: str, lengths: Law) -> float:
        """Expected, over windows of random length."""
        return sum(pr * self.profile.pass_ms(reader, source, n) for n, pr in enumerate(lengths) if pr)


def evaluate(levels: Hierarchy, profile: Profile) -> Estimate:
    """Latency and tokens of a hierarchy, exact for independent rounds. Raises as `Renewal.evaluate`."""
    return Renewal(profile).evaluate(levels)


def round_law(survival: Survival, lengths: Sequence[float]) -> Law:
    """Law f of the tokens that a round adds: accepted ones of a window whose length has this law, and one more."""
    as_long = list(accumulate(reversed(lengths)))[::-1]  # Pr(the window has at least a tokens)
    at_least = [pr * survival.at(a) for a, pr in enumerate(as_long)]  # Pr(a tokens are accepted)
    return (0.0, *(now - later for now, later in zip(at_least, (*at_least[1:], 0.0), strict=True)))


def visits(f: Sequence[float], buffer: int) -> list[float]:
    """Pr(the buffer holds exactly t tokens after some round), t = 0 .. buffer - 1. They sum to the expected rounds."""
    visited = [1.0]
    for t in range(1, buffer):
        visited.append(sum(f[x] * visited[t - x] for x in range(1, min(t, len(f) - 1) + 1)))
    return visited


def overshoot(f: Sequence[float], visited: Sequence[float]) -> Law:
    """Law of the tokens in the buffer when it first holds at least T = len(visited)."""
    buffer = len(visited)
    law = [0.0] * (buffer + len(f) - 1)
    for t, pr in enumerate(visited):
        for x in range(buffer - t, len(f)):
            law[t + x] += pr * f[x]
    return tuple(law)


def mean(law: Sequence[float]) -> float:
    return sum(number * pr for number, pr in enumerate(law))
