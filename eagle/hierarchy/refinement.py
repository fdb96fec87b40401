"""Hierarchies ranked by their exact latency, each with the best buffers found.

Every sequence of candidates starts from the buffers that the shortest path has for it and goes down one level at a
time: every length of that buffer, and the hierarchy without that level. Where it ends depends on the sequence alone and
not on what else is in the profile; so one more candidate never makes the best of all worse.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from eagle.hierarchy.profiles import Profile
from eagle.hierarchy.renewal import Estimate, Hierarchy, Level, Renewal, level
from eagle.hierarchy.shortest_path import best_routes, longest

MOST_SEQUENCES = 64  # that are refined; up to six candidates have no more
LEAST_GAIN = 1e-9  # of a step down, relative: rounding must not make it go round in circles


@dataclass(frozen=True)
class Candidate:
    levels: Hierarchy
    estimate: Estimate

    @property
    def ms(self) -> float:
        return self.estimate.ms_per_token


def ranked(profile: Profile, max_buffer: int) -> list[Candidate]:
    """The best found of every sequence, fastest first, of equal ones the simplest.

    Plain decoding and every single draft are among them, the latter with the best of all lengths.
    """
    renewal = Renewal(profile)
    found: dict[Hierarchy, Candidate] = {}
    for start in _starts(profile, max_buffer):
        one = _descend(renewal, Candidate(start, renewal.evaluate(start)), max_buffer)
        found[one.levels] = one
    return sorted(found.values(), key=lambda one: (one.ms, len(one.levels)))


def _starts(profile: Profile, max_buffer: int) -> Iterator[Hierarchy]:
    yield ()
    for source in profile.sources(profile.target.name):
        yield (level(source, 1),)
    for route in best_routes(profile, max_buffer, MOST_SEQUENCES):
        yield route.levels


def _descend(renewal: Renewal, start: Candidate, max_buffer: int) -> Candidate:
    best, before = start, None
    while best is not before:
        before = best
        for place in range(len(start.levels)):
            for levels in _neighbours(renewal.profile, best.levels, place, max_buffer):
                estimate = renewal.evaluate(levels)
                if estimate.ms_per_token < best.ms * (1 - LEAST_GAIN):
                    best = Candidate(levels, estimate)
    return best


def _neighbours(profile: Profile, levels: Hierarchy, place: int, max_buffer: int) -> Iterator[Hierarchy]:
    """The hierarchy with another buffer at a place, and without that level where the pair around it is known.

    A single draft stays one: it is to be compared with, also where plain decoding is faster.
    """
    if place >= len(levels):  # a level fell away
        return
    reader = levels[place + 1].name if place + 1 < len(levels) else profile.target.name
    below, name, above = levels[:place], levels[place].name, levels[place + 1 :]
    for buffer in range(1, longest(profile, reader, name, max_buffer) + 1):
        yield (*below, level(name, buffer), *above)
    if len(levels) > 1 and (not below or _fits(profile, reader, below[-1], max_buffer)):
        yield (*below, *above)


def _fits(profile: Profile, reader: str, source: Level, max_buffer: int) -> bool:
    known = (reader, source.name) in profile.survivals
    return known and source.buffer <= longest(profile, reader, source.name, max_buffer)
