"""The summary as a table in the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluation.methods import BASELINE, PEER_BASELINE

PEER_SPEEDUP = f"speedup_{PEER_BASELINE}"


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """One block of rows a task and temperature; 95 % intervals in brackets."""
    table = Table(title="95 % intervals by bootstrap over questions, paired where arms are compared")
    for name in ("task", "T", "method"):
        table.add_column(name)
    headers = ("tau", "exact", "bound", "tokens/s", f"x {BASELINE}", f"x {PEER_BASELINE}", "accuracy", "capped")
    for name in headers:
        table.add_column(name, justify="right")
    before = None
    for row in summary["results"]:
        block = (row["task"], row["temperature"])
        if before not in (None, block):
            table.add_section()
        table.add_row(*_cells(row))
        before = block
    console.print(table)


def _cells(row: Mapping[str, Any]) -> list[str]:
    flagged = f"{row['capped']}+{row['degenerate']}/{row['num_answers']}" if row.get("num_answers") else ""
    return [
        row["task"],
        f"{row['temperature']:g}",
        row["method"],
        spread(row, "tau"),
        number(row.get("tau_exact")),
        number(row.get("tau_bound")),
        number(row.get("tokens_per_s"), 1),
        spread(row, "speedup"),
        spread(row, PEER_SPEEDUP),
        percent(row.get("accuracy")),
        flagged,
    ]


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
