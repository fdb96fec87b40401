"""The summary as a table in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluation.arms import BASELINE, PEER_BASELINE

PEER_SPEEDUP = f"speedup_{PEER_BASELINE}"
OTHER_DRAWS = (
    "stand beside plain ones of an older version, which are other draws: they are not compared; a new --output "
    "compares them."
)


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """A block a task and temperature, narrow enough for 80 columns; brackets are 95 % intervals."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("arm", no_wrap=True)
    for name in ("tau", "exact", "tok/s", "x plain", "x hf", "acc"):
        table.add_column(name, justify="right", no_wrap=True)
    before = None
    for row in summary["results"]:
        block = (row["task"], row["temperature"])
        if block != before:
            table.add_row(f"\n[bold]{row['task']}[/bold] T={row['temperature']:g}")
        table.add_row(*_cells(row))
        before = block
    console.print(table)
    console.print(_flagged(summary["results"]))
    if num := sum(row["other_draws"] for row in summary["equality"]):
        console.print(f"{num} coupled answers {OTHER_DRAWS}")


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["arm"],
        spread(row, "tau"),
        number(row.get("tau_exact")),
        number(row.get("tokens_per_s"), 1),
        spread(row, "speedup"),
        number(row.get(PEER_SPEEDUP)),
        percent(row.get("accuracy")),
    ]


def _flagged(results: Sequence[Mapping[str, Any]]) -> str:
    names = ("num_answers", "capped", "degenerate", "stalled")
    counts = {name: sum(row.get(name) or 0 for row in results) for name in names}
    text = (
        f"\nx plain: decoding speed against {BASELINE}; x hf: against {PEER_BASELINE}; acc: share of right answers.\n"
        f"Of {counts['num_answers']} answers {counts['capped']} hit the cap and {counts['degenerate']} run in circles: "
        "the report has numbers without them."
    )
    if counts["stalled"]:
        text += f" {counts['stalled']} were stalled by other work on this machine: do not trust the speeds."
    return text


def number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}%}"


def spread(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    """`1.23 [1.10, 1.35]`, empty where there is no value."""
    if row.get(name) is None:
        return ""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    band = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{row[name]:.{digits}f}{band}"


def width(row: Mapping[str, Any], name: str, digits: int = 3) -> str:
    """Of the interval, empty where there is none."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if low is None or high is None else number(high - low, digits)
