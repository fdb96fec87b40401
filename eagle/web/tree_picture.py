"""A draft tree as a picture: tokens, their probabilities under the target, and which of them were accepted.

Drawn by matplotlib's own objects and not by pyplot, whose state all threads would share.
"""

import io
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch

from eagle.web.seen_round import SeenRound

COLUMN, ROW = 1.3, 0.46  # inches a level and a leaf take
WIDTH, HEIGHT = 0.8, 0.76  # of a box, in columns and rows
LONGEST_WORD = 11  # letters in a box
LEGEND = 0.4  # inches below the tree
DPI = 110
FACE = {"accepted": "#bbf0c9", "rejected": "#eeeeee", "root": "#ffffff", "bonus": "#cfe3ff"}
EDGE = {"accepted": "#15803d", "rejected": "#9ca3af", "root": "#6b7280", "bonus": "#1d4ed8"}
INK = {"accepted": "#052e16", "rejected": "#6b7280", "root": "#111827", "bonus": "#172554"}
DRAWN_STYLE: Final = "dashed"
PLACED_STYLE: Final = "solid"
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Noto Sans Arabic")  # in turn


def tree_png(seen: SeenRound) -> bytes:
    """The picture. Its size grows with the tree's leaves and depth."""
    parents = [*seen.parents, *([_end(seen)] if seen.bonus is not None else [])]
    depths, rows = depths_of(parents), rows_of(parents)
    figure = Figure(figsize=(COLUMN * (max(depths) + 1) + 0.1, ROW * (max(rows) + 1) + LEGEND), dpi=DPI)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(-0.55, max(depths) + 0.55)
    axes.set_ylim(max(rows) + 0.6 + LEGEND / ROW, -0.6)
    for node, parent in enumerate(parents):
        kind = kind_of(seen, node)
        if parent >= 0:
            ends = [depths[parent] + WIDTH / 2, depths[node] - WIDTH / 2], [rows[parent], rows[node]]
            axes.add_line(Line2D(*ends, color=EDGE[kind], lw=1.8 if kind == "accepted" else 0.9, zorder=1))
        _draw_node(axes, seen, node, depths[node], rows[node], kind)
    axes.legend(handles=_legend(seen), loc="lower left", ncols=5, fontsize=7.5, frameon=False, borderaxespad=0.1)
    return _png(figure)


def kind_of(seen: SeenRound, node: int) -> str:
    if node == len(seen.words):
        return "bonus"
    return "root" if node == 0 else "accepted" if node in seen.path else "rejected"


def depths_of(parents: Sequence[int]) -> list[int]:
    """Tokens between every node and the root."""
    depths: list[int] = []
    for parent in parents:
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    return depths


def rows_of(parents: Sequence[int]) -> list[float]:
    """Where nodes stand, so that no two branches cross: leaves one below the other, a node beside its first child."""
    children: list[list[int]] = [[] for _ in parents]
    for node, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(node)
    rows, taken, stack = [0.0] * len(parents), 0, [0]
    while stack:
        node = stack.pop()
        if not children[node]:
            rows[node], taken = float(taken), taken + 1
        stack.extend(reversed(children[node]))
    for node in reversed(range(len(parents))):  # children stand behind their parents
        if children[node]:
            rows[node] = rows[children[node][0]]
    return rows


def _end(seen: SeenRound) -> int:
    """The node that the bonus token follows."""
    return seen.path[-1] if seen.path else 0


def _draw_node(axes: Axes, seen: SeenRound, node: int, x: float, y: float, kind: str) -> None:
    is_drawn = node < len(seen.words) and seen.drawn[node]
    box = FancyBboxPatch(
        (x - WIDTH / 2, y - HEIGHT / 2),
        WIDTH,
        HEIGHT,
        boxstyle="round,pad=0,rounding_size=0.1",
        facecolor=FACE[kind],
        edgecolor=EDGE[kind],
        linestyle=DRAWN_STYLE if is_drawn else PLACED_STYLE,
        linewidth=1.6 if kind == "accepted" else 1.0,
        zorder=2,
    )
    axes.add_patch(box)
    word = seen.bonus if kind == "bonus" else seen.words[node]
    told = {"size": 8.5, "weight": "bold" if kind == "accepted" else "normal"}
    has_prob = kind in ("accepted", "rejected")
    _write(axes, x, y - (0.13 if has_prob else 0), shortened(word or ""), kind, **told)
    if has_prob:
        _write(axes, x, y + 0.17, told_prob(seen.probs[node]), kind, size=6.5)


def _write(axes: Axes, x: float, y: float, text: str, kind: str, **style: Any) -> None:
    """As it stands: a dollar sign is no formula."""
    axes.text(
        x, y, text, color=INK[kind], ha="center", va="center", parse_math=False, family=_fonts(), zorder=3, **style
    )


@cache
def _fonts() -> list[str]:
    """Those that are there: matplotlib looks for every missing one again and again, and says so."""
    there = font_manager.fontManager.get_font_names()
    return [name for name in FONTS if name in there]


def told_prob(prob: float) -> str:
    return f"{prob:.2f}" if prob >= 0.005 or prob == 0 else "<0.01"


def shortened(word: str) -> str:
    return word if len(word) <= LONGEST_WORD else f"{word[: LONGEST_WORD - 1]}\N{HORIZONTAL ELLIPSIS}"


def _legend(seen: SeenRound) -> list[Artist]:
    """Of the kinds of nodes that this tree has."""
    shown = [("accepted", "accepted")] * bool(seen.path) + [("rejected", "rejected")]
    shown += [("bonus", "the verifier's own token")] * (seen.bonus is not None)
    patches: list[Artist] = [Patch(facecolor=FACE[kind], edgecolor=EDGE[kind], label=label) for kind, label in shown]
    if any(seen.drawn):
        shape: dict[str, Any] = {"facecolor": "none", "edgecolor": EDGE["root"]}
        patches.append(Patch(**shape, linestyle=PLACED_STYLE, label="placed"))
        patches.append(Patch(**shape, linestyle=DRAWN_STYLE, label="drawn at random"))
    return patches


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a script that no font here has
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
