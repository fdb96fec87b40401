"""A plan as lines of text for the command line."""

from collections.abc import Iterator, Sequence

from eagle.hierarchy.plans import BreakEven, Change, Plan, Range

GIGA = 1e9


def told(plan: Plan) -> str:
    """Levels, predictions, break-evens, what would change the choice, runners-up."""
    return "\n".join([*_head(plan), *_levels(plan), *_break_evens(plan), *_changes(plan), *_runners_up(plan)])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def _head(plan: Plan) -> Iterator[str]:
    yield f"plan: {plan.choice.told(plan.target)}" + ("" if plan.levels else "  (no draft pays: plain decoding)")
    yield f"{plan.ms_per_token:.3g} ms a token{_range(plan.ms_range)}, predicted"
    yield f"{plan.tokens_per_pass:.2f} tokens a target pass{_range(plan.tokens_range)}"
    yield f"{plan.speedup:.2f}x plain decoding ({plan.plain_ms:.3g} ms a token)"
    if plan.single:
        single = plan.single.told(plan.target)
        yield f"{plan.speedup_over_single:.2f}x the best single draft ({single}, {plan.single.ms_per_token:.3g} ms)"
    yield f"{plan.weight_bytes / GIGA:.2f} GB of weights, {plan.cache_bytes:,} bytes of caches a token of context"


def _range(found: Range | None) -> str:
    return f" [{found[0]:.3g}, {found[1]:.3g}]" if found else ""


def _levels(plan: Plan) -> list[str]:
    if not plan.levels:
        return []
    rows = [(one.name, str(one.buffer), f"{passes:.2f}") for one, passes in zip(plan.levels, plan.passes, strict=True)]
    return ["", *aligned([("level", "buffer", "passes a target pass"), *reversed(rows)])]


def _break_evens(plan: Plan) -> list[str]:
    if not plan.break_evens:
        return []
    rows = [_break_even_row(plan, one) for one in reversed(plan.break_evens)]
    return ["", *aligned([("acceptance a token", "predicted", "break-even", "then as fast"), *rows])]


def _break_even_row(plan: Plan, one: BreakEven) -> tuple[str, ...]:
    even = "none" if one.break_even_alpha is None else f"{one.break_even_alpha:.3f}"
    then = one.fallback.told(plan.target) if one.fallback else "-"
    return f"{one.source} by {one.reader}", f"{one.alpha:.3f}", even, then


def _changes(plan: Plan) -> list[str]:
    if not plan.changes:
        return []
    rows = [_change_row(plan, one) for one in plan.changes]
    return ["", *aligned([("if accepted", "by", "ms a token", "best then"), *rows])]


def _change_row(plan: Plan, one: Change) -> tuple[str, ...]:
    same = one.choice.levels == plan.levels
    best = "the same" if same else f"{one.choice.told(plan.target)}, {one.choice.ms_per_token:.3g} ms"
    return f"{one.source} by {one.reader}", f"{one.shift:+.2f}", f"{one.ms_per_token:.3g}", best


def _runners_up(plan: Plan) -> list[str]:
    if not plan.runners_up:
        return []
    rows = [(one.told(plan.target), f"{one.ms_per_token:.3g}") for one in plan.runners_up]
    return ["", *aligned([("next best", "ms a token"), *rows])]
