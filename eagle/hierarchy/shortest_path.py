"""The best hierarchy in polynomial time, as if every level handed up exactly its buffer: arXiv 2510.19705.

A generalized shortest path: vertices (candidate, n), root the target, sink. An arc has a cost and a multiplier, and a
path costs the sum of its arcs' costs times the multipliers before them:

    (i, T) -> sink       cost of T tokens of i on its own
    (i, T) -> (j, n)     cost R v_i(n), multiplier R = expected rounds of i to get T tokens from windows of n
    root -> (j, n)       cost v(n) / E, multiplier 1 / E, E = expected tokens of a pass of the target
    root -> sink         cost of a plain token

The graph has no circles, and costs of paths grow with the costs of their ends; so one recursion from the sink finds
the best path, O(K^2 T^2), and the best of every sequence of candidates. The reduction overrates latency (levels hand
up more than their buffer); `eagle.hierarchy.refinement` ranks its choices again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter

from eagle.hierarchy.profiles import Profile
from eagle.hierarchy.renewal import Hierarchy, Level, level, mean, round_law, visits


@dataclass(frozen=True)
class Route:
    """A path from a vertex to the sink."""

    ms: float  # of one call of the vertex; from the root: of a token
    levels: Hierarchy

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.levels)


def gsp(profile: Profile, max_buffer: int) -> Route:
    """The best path. Its `ms` is the reduction's latency a token."""
    return best_routes(profile, max_buffer, most=1)[0]


def best_routes(profile: Profile, max_buffer: int, most: int) -> list[Route]:
    """The best path of every sequence of candidates, at most so many, best first; plain decoding may be one of them."""
    table: dict[Level, list[Route]] = {}
    for proposer in profile.proposers:
        for vertex in _vertices(proposer.name, max_buffer):
            table[vertex] = [_alone(profile, vertex)]
    for model in profile.models[:-1]:
        below = _ways_down(profile, model.name, max_buffer)
        for vertex in _vertices(model.name, max_buffer):
            longer = (_longer(vertex, way, rest) for way in below for rest in table[way.source])
            table[vertex] = _best([_alone(profile, vertex), *longer], most)
    plain = Route(profile.target.token_ms, ())
    ways = _ways_down(profile, profile.target.name, max_buffer)
    drafted = (Route((way.ms + r.ms) / way.tokens, r.levels) for way in ways for r in table[way.source])
    return _best([plain, *drafted], most)


@dataclass(frozen=True)
class _Way:
    """From a model down to a source that hands up windows of one length."""

    source: Level
    ms: float  # of a pass
    tokens: float  # expected of a round
    rounds: tuple[float, ...]  # expected to get 1, 2, .. tokens


def _ways_down(profile: Profile, reader: str, max_buffer: int) -> list[_Way]:
    return [
        _way(profile, reader, level(source, n), max_buffer)
        for source in profile.sources(reader)
        for n in range(1, longest(profile, reader, source, max_buffer) + 1)
    ]


def _way(profile: Profile, reader: str, source: Level, max_buffer: int) -> _Way:
    f = round_law(profile.survival(reader, source.name), (0.0,) * source.buffer + (1.0,))
    rounds = tuple(accumulate(visits(f, max_buffer)))
    return _Way(source, profile.pass_ms(reader, source.name, source.buffer), mean(f), rounds)


def _alone(profile: Profile, vertex: Level) -> Route:
    """Straight to the sink."""
    return Route(profile.draft_ms(vertex.name, vertex.buffer), (vertex,))


def _longer(vertex: Level, way: _Way, rest: Route) -> Route:
    return Route(way.rounds[vertex.buffer - 1] * (way.ms + rest.ms), (*rest.levels, vertex))


def _vertices(name: str, max_buffer: int) -> Iterable[Level]:
    return (level(name, n) for n in range(1, max_buffer + 1))


def _best(routes: Iterable[Route], most: int) -> list[Route]:
    """The best of every sequence, of equal ones the first; the best of those."""
    by_names: dict[tuple[str, ...], Route] = {}
    for route in routes:
        if (names := route.names) not in by_names or route.ms < by_names[names].ms:
            by_names[names] = route
    return sorted(by_names.values(), key=attrgetter("ms"))[:most]


def longest(profile: Profile, reader: str, source: str, max_buffer: int) -> int:
    """Windows that are planned are no longer than those that were measured."""
    return min(max_buffer, len(profile.survival(reader, source).reached))
