"""The four pictures of a report. Every interval drawn is the one in the summary."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from eagle.files import atomic_file
from evaluation.arms import BASELINE
from evaluation.report.summary import MEAN, SHARES, Result

KNOWN_COLOURS = {"autoregressive": "#8a8f98", "eagle3": "#3b75af", "hsd": "#d1603d", "hf_generate": "#b8a88a"}
OTHER_COLOURS = ("#5b9a68", "#8e6bb1", "#c9a227", "#4aa3a2", "#b0517d", "#7a5c43")
PHASE_COLOURS = {"draft": "#e3a857", "target": "#3b75af", "verify": "#d1603d", "rest": "#c8ccd2"}
INK, FAINT = "#2b2f36", "#e6e8eb"
STYLE: dict[str, Any] = {"fontsize": 9, "color": INK}
HEIGHT, PANEL_WIDTH = 3.3, 4.6  # inches
DPI = 160


def draw_plots(summary: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Write the PNG files that the summary has data for; returns them by name."""
    folder.mkdir(parents=True, exist_ok=True)
    results = summary["results"]
    makers: dict[str, Callable[[list[Result]], Figure | None]] = {
        "tau": _tau,
        "speedup": _speedup,
        "survival": _survival,
        "shares": _shares,
    }
    files = {}
    for name, make in makers.items():
        figure = make(results)
        if figure is not None:
            files[name] = folder / f"{name}.png"
            with atomic_file(files[name]) as temporary:
                figure.savefig(temporary, format="png", dpi=DPI, facecolor="white", bbox_inches="tight")
    return files


def colours(arms: Sequence[str]) -> dict[str, str]:
    """A colour an arm, the same one in every picture and in the page."""
    others = iter(OTHER_COLOURS * len(arms))
    return {arm: KNOWN_COLOURS.get(arm) or next(others) for arm in dict.fromkeys(arms)}


def _tau(results: list[Result]) -> Figure | None:
    drafting = [r for r in results if r["tau"]]
    figure = _grouped(drafting, "tau", "accepted draft tokens per round (tau)")
    for axis, rows in zip(figure.axes, _panels(drafting).values(), strict=True) if figure else ():
        for row, x, width in _positions(rows):
            if row["tau_bound"] is not None:
                axis.hlines(row["tau_bound"], x - width / 2, x + width / 2, color=INK, linewidth=1.4)
            if row["tau_exact"] is not None:
                axis.plot(x, row["tau_exact"], marker="D", markersize=4, color="white", markeredgecolor=INK, zorder=5)
    if figure:
        _note(figure, "whiskers: 95 % interval over questions;  ◇ exact expectation on the same trees;  ─ bound Σ p(v)")
    return figure


def _speedup(results: list[Result]) -> Figure | None:
    faster = [r for r in results if r.get("speedup") is not None and r["arm"] != BASELINE]
    figure = _grouped(faster, "speedup", f"decoding speed, {BASELINE} = 1")
    for axis in figure.axes if figure else ():
        axis.axhline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    if figure:
        _note(figure, "whiskers: 95 % paired bootstrap over questions;  tokens after the first, by the time after it")
    return figure


def _grouped(results: list[Result], name: str, label: str) -> Figure | None:
    """Bars by task and arm with whiskers, a panel a temperature."""
    panels = _panels(results)
    if not panels:
        return None
    figure = Figure(figsize=(PANEL_WIDTH * len(panels) + 0.6, HEIGHT), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    palette = colours([r["arm"] for r in results])
    for axis, (temperature, rows) in zip(axes, panels.items(), strict=True):
        for row, x, width in _positions(rows):
            axis.bar(x, row[name], width * 0.9, color=palette[row["arm"]], zorder=2)
            _whisker(axis, x, row, name)
        tasks = list(dict.fromkeys(row["task"] for row in rows))
        axis.set_xticks(range(len(tasks)), tasks, **STYLE)
        axis.set_title(f"temperature {temperature:g}", loc="left", **STYLE)
        _plain(axis)
    axes[0].set_ylabel(label, **STYLE)
    _legend(figure, palette)
    return figure


def _whisker(axis: Axes, x: float, row: Result, name: str) -> None:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is not None and high is not None:
        axis.vlines(x, low, high, color=INK, linewidth=1.3, zorder=4)
    top = row[name] if high is None else high
    axis.annotate(f"{row[name]:.2f}", (x, top), (0, 3), textcoords="offset points", ha="center", fontsize=7, color=INK)


def _survival(results: list[Result]) -> Figure | None:
    drafting = [r for r in results if r.get("survival")]
    tasks = list(dict.fromkeys(r["task"] for r in drafting))
    temperatures = list(dict.fromkeys(r["temperature"] for r in drafting))
    if not drafting:
        return None
    size = (PANEL_WIDTH * 0.8 * len(tasks) + 0.6, 2.6 * len(temperatures) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(temperatures), len(tasks), sharex=True, sharey=True, squeeze=False)
    palette = colours([r["arm"] for r in drafting])
    for row in drafting:
        axis = axes[temperatures.index(row["temperature"])][tasks.index(row["task"])]
        _survival_line(axis, row, palette[row["arm"]])
    for i, temperature in enumerate(temperatures):
        axes[i][0].set_ylabel(f"share of rounds, T = {temperature:g}", **STYLE)
    for j, task in enumerate(tasks):
        axes[0][j].set_title(task, loc="left", **STYLE)
        axes[-1][j].set_xlabel("accepted at least this many tokens", **STYLE)
    _legend(figure, palette)
    return figure


def _survival_line(axis: Axes, row: Result, colour: str) -> None:
    depth = np.arange(1, len(row["survival"]) + 1)
    axis.plot(depth, row["survival"], color=colour, marker="o", markersize=3.5, linewidth=1.6)
    if all(value is not None for value in row["survival_low"]):
        axis.fill_between(depth, row["survival_low"], row["survival_high"], color=colour, alpha=0.18, linewidth=0)
    axis.set_ylim(0, 1)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(axis)


def _shares(results: list[Result]) -> Figure | None:
    told = [r for r in results if r.get("target_share") is not None]
    shown = [r for r in told if r["task"] == MEAN] or told
    if not shown:
        return None
    figure = Figure(figsize=(PANEL_WIDTH * 2 + 0.6, 0.34 * len(shown) + 1.0), layout="constrained")
    axis = figure.subplots()
    labels = [
        f"{r['arm']}   T = {r['temperature']:g}" + ("" if r["task"] == MEAN else f"   {r['task']}") for r in shown
    ]
    left = np.zeros(len(shown))
    for phase in SHARES:
        widths = np.array([max(r[f"{phase}_share"], 0) for r in shown])
        axis.barh(range(len(shown)), widths, left=left, height=0.62, color=PHASE_COLOURS[phase], label=phase)
        for y, (start, width) in enumerate(zip(left, widths, strict=True)):
            if width > 0.03:
                axis.annotate(f"{width:.0%}", (start + width / 2, y), ha="center", va="center", fontsize=7, color=INK)
        left += widths
    axis.set_yticks(range(len(shown)), labels, **STYLE)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_xlabel("share of decoding time" + (", mean of tasks" if shown[0]["task"] == MEAN else ""), **STYLE)
    _plain(axis, grid="x")
    figure.legend(loc="outside upper left", ncols=len(SHARES), frameon=False, fontsize=8)
    return figure


def _panels(results: list[Result]) -> dict[float, list[Result]]:
    temperatures = dict.fromkeys(r["temperature"] for r in results)
    return {t: [r for r in results if r["temperature"] == t] for t in temperatures}


def _positions(rows: list[Result]) -> list[tuple[Result, float, float]]:
    """Each row with the centre and the width of its bar: a group a task, arms side by side."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    width = min(0.8 / len(arms), 0.3)
    offset = -(len(arms) - 1) / 2
    return [(r, tasks.index(r["task"]) + (offset + arms.index(r["arm"])) * width, width) for r in rows]


def _legend(figure: Figure, palette: dict[str, str]) -> None:
    handles = [Patch(color=colour, label=arm) for arm, colour in palette.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 6), frameon=False, fontsize=8)


def _note(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize=7, color="#6b7280", x=0.01, ha="left")


def _plain(axis: Axes, grid: str = "y") -> None:
    axis.grid(axis=grid, color=FAINT, linewidth=0.8)  # type: ignore[arg-type]
    axis.set_axisbelow(True)
    axis.tick_params(length=0, labelsize=8, labelcolor=INK)
    for side in ("top", "right", "left" if grid == "y" else "bottom"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#b6bac1")
