"""From measured rounds to a profile: counts by prompt, medians of times.

Letters: n tokens of a window.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from eagle.engine.shape import attention_shape
from eagle.engine.target import Target
from eagle.hierarchy.candidates import Acceptance, Model, Proposer
from eagle.hierarchy.curves import CostCurve, falling
from eagle.hierarchy.profiles import Profile
from eagle.levels.loaded import Candidates, HeadDraft
from eagle.levels.rounds import PLAIN, Measured, Pair, Seen
from eagle.levels.specs import LOOKUP

LEAST_TIMES = 5  # rounds behind a point of a cost curve
Rows = Mapping[Pair, Sequence[Measured]]


def summarise(
    rows: Iterable[Measured], candidates: Candidates, prompts: Sequence[str], provenance: Mapping[str, Any]
) -> Profile:
    """Counts by prompt, medians of times."""
    by_pair: dict[Pair, list[Measured]] = {}
    for row in rows:
        by_pair.setdefault(row.pair, []).append(row)
    pairs = [pair for pair in by_pair if pair.source != PLAIN and _counted(by_pair[pair])]
    return Profile(
        models=tuple(_model(name, candidates.model(name), by_pair) for name in candidates.readers()),
        acceptances=tuple(_acceptance(pair, by_pair[pair], prompts) for pair in pairs),
        proposers=_proposers(candidates, by_pair),
        prompts=tuple(prompts),
        provenance=provenance,
    )


def _counted(rows: Sequence[Measured]) -> list[Seen]:
    return [seen for row in rows for seen in row.rounds if seen.window]


def _acceptance(pair: Pair, rows: Sequence[Measured], prompts: Sequence[str]) -> Acceptance:
    most = max(seen.window for seen in _counted(rows))
    offered = {name: [0] * most for name in prompts}
    accepted = {name: [0] * most for name in prompts}
    for row in rows:
        for seen in row.rounds:
            for place in range(seen.window):
                offered[row.prompt][place] += 1
                accepted[row.prompt][place] += place < seen.kept
    own = [tuple(tuple(counts[name]) for name in prompts) for counts in (offered, accepted)]
    return Acceptance(*pair, offered=own[0], accepted=own[1])


def _model(name: str, model: Target, by_pair: Rows) -> Model:
    plain = [seen.ms for row in by_pair[Pair(name, PLAIN)] for seen in row.rounds]
    if not plain:
        raise ValueError(f"{name} was never measured: its context of {model.context_limit:,} tokens holds no prompt")
    seen = [one for pair, rows in by_pair.items() if pair.reader == name for one in _counted(rows)]
    points = [Point(0, statistics.median(plain), len(plain))]
    points += medians((one.nodes, one.ms) for one in seen if one.nodes)
    return Model(name, points[0].ms, rising(points), bytes_of(model.model), cache_bytes(model))


def _proposers(candidates: Candidates, by_pair: Rows) -> tuple[Proposer, ...]:
    heads = [_head(head, candidates, by_pair) for head in candidates.heads()]
    lookup = [Proposer(LOOKUP, _draft_ms(LOOKUP, by_pair))] if candidates.lookup is not None else []
    return (*heads, *lookup)


def _head(head: HeadDraft, candidates: Candidates, by_pair: Rows) -> Proposer:
    assert head.nodes is not None, "profiled ones have a size"
    weights = bytes_of(candidates.head_of(head.model))
    return Proposer(head.name, _draft_ms(head.name, by_pair), (head.model,), head.nodes - 1, weight_bytes=weights)


def _draft_ms(source: str, by_pair: Rows) -> CostCurve:
    seen = [one for pair, rows in by_pair.items() if pair.source == source for one in _counted(rows)]
    if not seen:
        raise ValueError(f"{source} was never measured: no prompt fits into the context of who it drafts for")
    return rising(medians((one.window, one.draft_ms) for one in seen))


class Point(NamedTuple):
    """Of a cost curve, before it is made rising."""

    tokens: int
    ms: float
    rounds: int  # behind it


def rising(points: Sequence[Point]) -> CostCurve:
    """The never falling curve nearest to the points, weighted by rounds: one slow point must not lift all behind it."""
    fitted = falling([-point.ms for point in points], [point.rounds for point in points])
    return CostCurve(tuple(point.tokens for point in points), tuple(-ms for ms in fitted))


def medians(times: Iterable[tuple[int, float]]) -> list[Point]:
    """Times against tokens: medians of neighbours, so many together that there are `LEAST_TIMES` of them."""
    ordered = sorted(times)
    found: list[Point] = []
    group: list[tuple[int, float]] = []
    for place, point in enumerate(ordered):
        group.append(point)
        is_last_of_size = place + 1 == len(ordered) or ordered[place + 1][0] != point[0]
        if is_last_of_size and (len(group) >= LEAST_TIMES or place + 1 == len(ordered)):
            size = round(statistics.mean(n for n, _ in group))
            if not found or size > found[-1].tokens:
                found.append(Point(size, statistics.median(ms for _, ms in group), len(group)))
            group = []
    return found


def bytes_of(model: nn.Module) -> int:
    """Of the weights as they are stored, tied ones once; of low-bit layers they are buffers."""
    return sum(weight.nbytes for weight in [*model.parameters(), *model.buffers()])


def cache_bytes(model: Target) -> int:
    """Of keys and values of a token of context, in all layers."""
    shape = attention_shape(model.config)
    return 2 * len(model.layers) * shape.num_key_value_heads * shape.head_dim * model.dtype.itemsize
