"""Pictures of a run, drawn from `metrics.jsonl`: overlap of every step, agreement, loss and predicted tau."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eagle.files import atomic_file
from eagle.training.log import METRICS, read_metrics

Records = Sequence[dict[str, Any]]


def plot_run(output: Path) -> list[Path]:
    """Write `overlap.png`, `loss.png` and `tau.png` beside the metrics; returns those there was data for."""
    train, evaluations = (read_metrics(output / METRICS, kind) for kind in ("train", "eval"))
    written = []
    if evaluations:
        written.append(
            _save(output / "overlap.png", "Held-out conversations, temperature 1", _draw_overlap, evaluations)
        )
        written.append(_save(output / "tau.png", "Predicted accepted draft tokens a round", _draw_tau, evaluations))
    if train:
        written.append(_save(output / "loss.png", "Training loss", _draw_loss, train))
    return written


def _draw_overlap(axes: Axes, records: Records) -> None:
    for step in range(len(records[0]["overlap"])):
        axes.plot(_millions(records), [record["overlap"][step] for record in records], label=f"step {step + 1}")
    covered = records[-1]["covered_mass"]
    axes.axhline(covered, color="grey", linestyle=":", label=f"draft vocabulary's mass {covered:.3f}")
    axes.set_ylabel("overlap: sum of min(p, q)")
    axes.set_ylim(0, 1)


def _draw_tau(axes: Axes, records: Records) -> None:
    for name, label in (("tau_chain", "sampled chain"), ("tau_tree", "default tree")):
        axes.plot(_millions(records), [record[name] for record in records], label=label)
    axes.set_ylabel("tau, without the bonus token")
    axes.set_ylim(bottom=0)


def _draw_loss(axes: Axes, records: Records) -> None:
    for step in range(len(records[0]["step_loss"])):
        axes.plot(_millions(records), [record["step_loss"][step] for record in records], label=f"step {step + 1}")
    axes.set_ylabel("loss, mean over positions")
    axes.set_yscale("log")


def _save(path: Path, title: str, draw: Callable[[Axes, Records], None], records: Records) -> Path:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # no display, no global state
    axes = figure.subplots()
    draw(axes, records)
    axes.set_title(title)
    axes.set_xlabel("million tokens seen")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return path


def _millions(records: Records) -> list[float]:
    return [record["tokens_seen"] / 1e6 for record in records]
