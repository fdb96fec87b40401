"""From rows to a table: expected tau of every tree, and its gain over the reference at equal mean nodes.

Every context counts once: draws are averaged first. Intervals resample questions, the same ones for a tree and its
reference. The reference is the deterministic tree with the walk, which no verifier improves on; its tau at the mean
nodes of another tree is read off its own curve, context by context, linear in the logarithm of the nodes.

Letters: Q questions, B resamples.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eagle.bootstrap import Array, Interval, Resamples, interval
from eagle.files import atomic_file
from eagle.judging import COUPLED
from evaluation.trees.contexts import HELD_OUT

if TYPE_CHECKING:  # slow to import, and only plots need it
    from matplotlib.axes import Axes

REFERENCE, REFERENCE_VERIFIER = "eagle", "walk"
ALL = "benchmarks"  # the three together
NUM_RESAMPLES = 2000
PANELS_A_ROW = 3  # of the plot

TreeRow = dict[str, Any]
TreeCellKey = tuple[str, str, str, int]  # source, sampling, tree, budget
PerContext = dict[str, float]  # context -> mean over draws


@dataclass(frozen=True)
class TreeCell:
    """One tree and verifier at one budget and sampling, over the contexts of one source."""

    source: str
    sampling: str
    tree: str
    verifier: str
    budget: int
    nodes: float  # mean, with the root
    depth: float  # mean of the deepest node
    tau: float  # exact expected accepted tokens a round, without the bonus token
    tau_low: float | None
    tau_high: float | None
    gain: float | None  # block efficiency over the reference's at equal mean nodes, minus 1
    gain_low: float | None
    gain_high: float | None
    bound: float | None  # what no verifier can pass on these trees
    gap: float | None  # bound - tau
    contexts: int
    draws: float  # mean a context


@dataclass
class Measured:
    """The rows of one cell, averaged over draws."""

    questions: dict[str, str]  # context -> question
    nodes: PerContext
    depth: PerContext
    bound: PerContext  # empty where it is unknown
    tau: dict[str, PerContext]  # verifier -> context -> tau
    draws: float

    @property
    def mean_nodes(self) -> float:
        return sum(self.nodes.values()) / len(self.nodes)


def tree_cells(rows: Iterable[TreeRow]) -> Iterator[TreeCell]:
    """Every cell, sources in turn, the three benchmarks together last."""
    measured = {key: _measured(group) for key, group in _grouped(rows).items()}
    for (source, sampling, tree, budget), one in measured.items():
        curve = [m for (s, t, name, _), m in measured.items() if (s, t, name) == (source, sampling, REFERENCE)]
        for verifier, tau in one.tau.items():
            if len(tau) == len(one.nodes):  # applies to every tree
                yield _cell((source, sampling, tree, budget), verifier, one, curve)


def _grouped(rows: Iterable[TreeRow]) -> dict[TreeCellKey, list[TreeRow]]:
    groups: dict[TreeCellKey, list[TreeRow]] = defaultdict(list)
    for row in rows:
        key = row["sampling"], row["tree"], row["budget"]
        groups[(row["source"], *key)].append(row)
        if row["source"] != HELD_OUT:
            groups[(ALL, *key)].append(row)
    return dict(sorted(groups.items()))


def _measured(rows: list[TreeRow]) -> Measured:
    bounds = [row for row in rows if row["bound"] is not None]
    verifiers = sorted({verifier for row in rows for verifier in row["tau"]})
    return Measured(
        questions={row["context"]: row["question"] for row in rows},
        nodes=_mean(rows, lambda row: row["nodes"]),
        depth=_mean(rows, lambda row: row["depth"]),
        bound=_mean(bounds, lambda row: row["bound"]) if len(bounds) == len(rows) else {},
        tau={v: _mean([row for row in rows if v in row["tau"]], _tau_of(v)) for v in verifiers},
        draws=len(rows) / len({row["context"] for row in rows}),
    )


def _tau_of(verifier: str) -> Callable[[TreeRow], float]:
    return lambda row: float(row["tau"][verifier])


def _mean(rows: list[TreeRow], value: Callable[[TreeRow], float]) -> PerContext:
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        values[row["context"]].append(value(row))
    return {context: sum(v) / len(v) for context, v in values.items()}


def _cell(key: TreeCellKey, verifier: str, one: Measured, curve: list[Measured]) -> TreeCell:
    contexts = sorted(one.nodes)
    samples = _PerQuestion([one.questions[context] for context in contexts])
    tau = one.tau[verifier]
    tau_interval = interval(samples.mean([tau[c] for c in contexts]))
    reference = reference_tau(curve, one.mean_nodes)
    gain = Interval(None)
    if reference and all(c in reference for c in contexts):
        ratio = samples.ratio([1 + tau[c] for c in contexts], [1 + reference[c] for c in contexts])
        gain = interval(ratio - 1)
    bound = sum(one.bound.values()) / len(one.bound) if one.bound else None
    mean = float(tau_interval.value or 0.0)
    return TreeCell(
        key[0],
        key[1],
        key[2],
        verifier,
        key[3],
        one.mean_nodes,
        sum(one.depth.values()) / len(one.depth),
        mean,
        tau_interval.low,
        tau_interval.high,
        gain.value,
        gain.low,
        gain.high,
        bound,
        None if bound is None else bound - mean,
        len(contexts),
        one.draws,
    )


def reference_tau(curve: list[Measured], nodes: float) -> PerContext:
    """The reference's tau at so many mean nodes, context by context; its ends stand for what lies beyond them."""
    points = sorted(curve, key=lambda one: one.mean_nodes)
    if not points:
        return {}
    sizes = [math.log(point.mean_nodes) for point in points]
    taus = [point.tau[REFERENCE_VERIFIER] for point in points]
    shared = set.intersection(*(set(tau) for tau in taus))
    return {c: float(np.interp(math.log(nodes), sizes, [tau[c] for tau in taus])) for c in shared}


class _PerQuestion:
    """Means over contexts, with questions resampled."""

    def __init__(self, questions: list[str]):
        names = sorted(set(questions))
        self._index = np.array([names.index(question) for question in questions])
        self._resamples = Resamples(len(names), NUM_RESAMPLES, seed=0)

    def ratio(self, numerator: list[float], denominator: list[float]) -> Array:
        """Ratio of two sums over the same contexts: (B + 1,)."""
        return self._resamples.ratio(self._sums(numerator), self._sums(denominator))

    def mean(self, values: list[float]) -> Array:
        return self.ratio(values, [1.0] * len(values))

    def _sums(self, values: list[float]) -> Array:
        return np.bincount(self._index, weights=np.array(values, dtype=float)).astype(float)  # (Q,)


def write_csv(table: list[TreeCell], path: Path) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(TreeCell)])
        writer.writeheader()
        writer.writerows(asdict(cell) for cell in table)


def lines(table: list[TreeCell], source: str, verifiers: tuple[str, ...]) -> Iterator[str]:
    """The table of one source as text."""
    yield f"{'sampling':12} {'tree':20} {'verifier':9} {'nodes':>6} {'depth':>5} {'tau':>6} {'interval':>15} " + (
        f"{'gain':>7} {'interval':>17} {'bound':>6} {'contexts':>8}"
    )
    chosen = (cell for cell in table if cell.source == source and cell.verifier in verifiers)
    for cell in sorted(chosen, key=lambda c: (c.sampling, c.budget, c.tree, c.verifier)):
        yield _line(cell)


def _line(cell: TreeCell) -> str:
    start = f"{cell.sampling:12} {cell.tree:20} {cell.verifier:9} {cell.nodes:6.1f} {cell.depth:5.1f} {cell.tau:6.3f} "
    tau = f"[{cell.tau_low:5.2f}, {cell.tau_high:5.2f}]" if cell.tau_low is not None else ""
    gain = f"{cell.gain:+7.1%}" if cell.gain is not None else ""
    gain_interval = f"[{cell.gain_low:+6.1%}, {cell.gain_high:+6.1%}]" if cell.gain_low is not None else ""
    bound = f"{cell.bound:6.3f}" if cell.bound is not None else ""
    return f"{start}{tau:>15} {gain:>7} {gain_interval:>17} {bound:>6} {cell.contexts:8d}"


def plot(table: list[TreeCell], source: str, path: Path) -> None:
    """tau against mean nodes, a panel a sampling, a curve a tree with its usual verifier."""
    import matplotlib  # slow to import, and only plots need it

    matplotlib.use("Agg")
    from matplotlib import pyplot

    samplings = sorted({cell.sampling for cell in table})
    budgets = sorted({cell.budget for cell in table})
    columns = min(len(samplings), PANELS_A_ROW)
    rows = math.ceil(len(samplings) / columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.2 * columns, 4.1 * rows + 0.5), squeeze=False)
    for axis in axes.flat[len(samplings) :]:
        axis.axis("off")
    for axis, sampling in zip(axes.flat, samplings, strict=False):
        _plot_panel(axis, [cell for cell in table if (cell.source, cell.sampling) == (source, sampling)])
        axis.set(title=f"temperature {sampling}", xlabel="mean nodes of a tree", xscale="log")
        axis.set_xticks(budgets, [str(budget) for budget in budgets])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("expected accepted tokens a round")
    figure.tight_layout(rect=(0, 0.1 / rows, 1, 1))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncols=4, fontsize="small")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)


def own_verifier(table: list[TreeCell], tree: str) -> str:
    """The verifier a tree is shown with: the best that applies to it."""
    found = {cell.verifier for cell in table if cell.tree == tree}
    return REFERENCE_VERIFIER if tree == REFERENCE else COUPLED if COUPLED in found else "hsd"


def _plot_panel(axis: "Axes", table: list[TreeCell]) -> None:
    for tree in sorted({cell.tree for cell in table}, key=lambda tree: (tree == REFERENCE, tree)):  # it lies on top
        verifier = own_verifier(table, tree)
        curve = sorted((c for c in table if (c.tree, c.verifier) == (tree, verifier)), key=lambda cell: cell.nodes)
        style: dict[str, Any] = {"color": "black", "linestyle": "--"} if tree == REFERENCE else {}
        axis.plot([c.nodes for c in curve], [c.tau for c in curve], marker="o", label=f"{tree}, {verifier}", **style)
