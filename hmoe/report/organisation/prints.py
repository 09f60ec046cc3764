"""Organisations for a paper: SVG files by matplotlib, in the colours of the page.

Letters: L levels, C values of a label, P nodes of a cut.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hmoe.metrics import Knowledge
from hmoe.report.organisation.bars import PARTS, level_words
from hmoe.report.organisation.chart import HALF, WIDEST_LINE, box, lines
from hmoe.report.organisation.layout import Layout, lay_out_tree, strip_cells
from hmoe.report.organisation.matrix import matrix_of, telling_level
from hmoe.report.organisation.paint import DIVERGING, OCTAVES, diverging, octaves
from hmoe.report.organisation.view import View, counted
from hmoe.report.paper import WIDTH, empty_figure, plain, write_figures
from hmoe.report.style import COLOURS, FAINT, INK

_LETTER = 0.052  # inches, at the size of names
_TITLES = ("load, even is 1", "share over expected")


def write_prints(shown: Sequence[View], out: Path) -> list[Path]:
    """Write chart, matrix and bars of each layer as SVG; returns their paths."""
    drawings = {}
    for view in shown:
        name = view.layer.name.replace("/", "_") or "model"
        drawings[f"{name}.chart"] = lambda v=view: _chart(v)
        drawings[f"{name}.load"] = lambda v=view: _decomposition(v)
        for known in view.layer.knowledge:
            label = known.label.replace("/", "_")
            drawings[f"{name}.{label}.matrix"] = lambda v=view, k=known: _matrix(v, k)
            drawings[f"{name}.{label}.information"] = lambda v=view, k=known: _information(v, k)
    return write_figures(drawings, out)


def _chart(view: View) -> Any:
    layout, depth = lay_out_tree(view.tree), view.tree.num_levels
    figure, (axes,) = empty_figure(1, 0.75 * (depth + 1))
    for traffic, x, y in lines(view, layout):
        points = [np.nan if v is None else v for v in x], [np.nan if v is None else v for v in y]
        axes.plot(*points, color="#9ca3af", linewidth=max(WIDEST_LINE * traffic * 0.6, 0.4))
    root = layout.num_slots * 0.12
    _box(axes, layout.num_slots / 2 - root / 2, -HALF, root, "white", "all rows")
    for node in range(layout.num_boxes):
        left, bottom, width, _ = box(layout, node)
        bottom += -1 - view.tree.level_N[node]
        ratio = float(view.ratio_N[node])
        _box(
            axes, left, bottom, width, diverging(ratio), _name(view, layout, node), idle=ratio == 0
        )
    for level in layout.strips:
        cells = strip_cells(view.tree, level)
        half = 0.42 if cells.rows > 1 else 0.2
        axes.imshow(
            cells.grid(octaves(cells.means(view.ratio_N))),
            extent=(0, layout.num_slots, -1 - level - half, -1 - level + half),
            aspect="auto",
            **_scale(),
        )
    axes.set(xlim=(0, layout.num_slots), ylim=(-depth - 0.45, 0.3), xticks=[])
    sizes = [s.stop - s.start for s in view.tree.level_slices]
    words = [counted(view.tree, i, n) for i, n in enumerate(sizes)]
    axes.set_yticks([-1 - i for i in range(depth)], words)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    _bar(figure, axes, _TITLES[0])
    return figure


def _box(
    axes: Any, left: float, bottom: float, width: float, fill: str, name: str, idle: bool = False
) -> None:
    from matplotlib.patches import Rectangle

    style = {"facecolor": fill, "edgecolor": FAINT, "linewidth": 0.6, "zorder": 2}
    axes.add_patch(Rectangle((left, bottom), width, 2 * HALF, **style))
    middle = left + width / 2, bottom + HALF
    paint = "white" if idle else INK
    axes.text(*middle, name, ha="center", va="center", fontsize=6.5, color=paint, zorder=3)


def _name(view: View, layout: Layout, node: int) -> str:
    """The name where it has room: the chart takes about seven tenths of the width."""
    name = view.tree.path_N[node].split(".")[-1]
    room = box(layout, node)[2] / layout.num_slots * WIDTH * 0.7
    return plain(name) if len(name) * _LETTER < room else ""


def _matrix(view: View, knowledge: Knowledge) -> Any:
    level = telling_level(knowledge)
    matrix = matrix_of(view, knowledge, level)
    figure, (axes,) = empty_figure(1, 0.9 + 0.17 * len(matrix.values))
    axes.imshow(octaves(matrix.ratio_CP), aspect="auto", **_scale())
    axes.set_yticks(range(len(matrix.values)), [plain(v) for v in matrix.values])
    letters = sum(len(n) + 2 for n in matrix.nodes) * _LETTER * 1.2
    turned = 90 if letters > 0.65 * WIDTH else 0
    axes.set_xticks(range(len(matrix.nodes)), map(plain, matrix.nodes), rotation=turned)
    axes.tick_params(labelsize=7, length=0)
    axes.set_xlabel(matrix.title)
    axes.set_ylabel(plain(knowledge.label))
    _bar(figure, axes, _TITLES[1])
    return figure


def _decomposition(view: View) -> Any:
    parts = {key: view.layer.decomposition[key] for key in PARTS if key in view.layer.decomposition}
    if not parts:
        return None
    figure, places = empty_figure(len(parts), 0.5 + 0.6 * len(parts) * view.tree.num_levels**0.5)
    for axes, (key, values_L) in zip(places, parts.items(), strict=True):
        axes.barh(level_words(view), values_L, color=_colours(len(values_L)), height=0.6)
        axes.invert_yaxis()
        axes.set_xlabel(PARTS[key])
    return figure


def _information(view: View, knowledge: Knowledge) -> Any:
    figure, (told, beside) = empty_figure(2, 1.4 + 0.5 * view.tree.num_levels)
    words, y = level_words(view), np.arange(view.tree.num_levels)
    told.barh(y, knowledge.information_L, color=COLOURS[1], height=0.55, label="router")
    style = {"color": COLOURS[2], "markersize": 12, "markeredgewidth": 2}
    told.plot(knowledge.null_L, y, "|", label="labels permuted", **style)
    told.set_xlabel(f"information on {plain(knowledge.label)} (nats)")
    beside.barh(y - 0.2, knowledge.ami_L, height=0.36, color=COLOURS[1], label="router")
    control = knowledge.clusters_ami_L
    beside.barh(y + 0.2, control, height=0.36, color="#9ca3af", label="k-means of the inputs")
    beside.set_xlabel("adjusted mutual information with the nodes of a level")
    for axes in (told, beside):
        axes.set_yticks(y, words)
        axes.invert_yaxis()
        axes.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def _colours(levels: int) -> list[str]:
    return [COLOURS[1 + i % (len(COLOURS) - 1)] for i in range(levels)]


def _scale() -> dict[str, Any]:
    from matplotlib.colors import LinearSegmentedColormap

    paint = LinearSegmentedColormap.from_list("diverging", list(DIVERGING), N=1024)
    return {"cmap": paint, "vmin": -OCTAVES, "vmax": OCTAVES, "interpolation": "nearest"}


def _bar(figure: Any, axes: Any, title: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    norm = Normalize(-OCTAVES, OCTAVES)
    bar = figure.colorbar(ScalarMappable(norm, _scale()["cmap"]), ax=axes, label=title)
    bar.set_ticks([-2, -1, 0, 1, 2], labels=["¼", "½", "1", "2", "4"])
    bar.outline.set_visible(False)
