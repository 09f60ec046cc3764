"""Plots of benchmarks: one SVG file, which browsers and Markdown pages show without a network.

Text is drawn as outlines, so that it looks the same where a font is missing. Times of drawing and
random names are left out: equal numbers give equal files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hmoe.bench.measure import spread

# Each keeps a contrast of at least 4.5 to white.
_COLOURS = ("#475569", "#1d4ed8", "#c2410c", "#0f766e", "#9333ea", "#a16207", "#be185d", "#3f6212")
_SIGNS = "osD^Pv*X"
_INK, _GRID, _AIM = "#1f2937", "#e5e7eb", "#b91c1c"
_STYLE = {
    "svg.hashsalt": "hmoe",
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _GRID,
}


@dataclass(frozen=True)
class Mark:
    """One line of a panel: a point at the median, whiskers to lowest and highest.

    Attributes:
        group: marks of a group share colour and sign.
    """

    name: str
    median: float
    lowest: float
    highest: float
    group: str


@dataclass(frozen=True)
class Panel:
    """One comparison.

    Attributes:
        aim: a line at what is to be reached; None for none.
    """

    title: str
    marks: Sequence[Mark]
    aim: float | None = None


def plot_panels(panels: Sequence[Panel], path: Path, *, title: str, x_label: str) -> Path:
    """Draw panels in two columns, one mark a line, over a common scale; write them to `path`."""
    groups = sorted({mark.group for panel in panels for mark in panel.marks})
    looks = {g: (_COLOURS[i % 8], _SIGNS[i % 8]) for i, g in enumerate(groups)}
    columns = min(2, len(panels))
    pairs = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [max(len(panel.marks) for panel in pair) + 3 for pair in pairs]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.2 * columns, 0.21 * sum(heights) + 0.9), layout="constrained")
        figure.suptitle(title)
        grid = figure.subplots(
            len(pairs), columns, squeeze=False, height_ratios=heights, sharex=True
        )
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        if _needs_logarithm(panels):
            grid[0, 0].set_xscale("log")
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, panel, looks)
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(x_label)
        handles = [
            grid[0, 0].plot([], [], linestyle="", marker=sign, color=colour, label=group)[0]
            for group, (colour, sign) in looks.items()
        ]
        if len(groups) > 1:
            figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
        _save(figure, path)
    return path


def plot_ratios(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    name: Callable[[Mapping[str, Any]], str],
    title: str,
    x_label: str,
    aim: float | None,
) -> Path:
    """One panel, a mark a row: the spread under its key `ratio`, called what `name` makes of it."""
    marks = [Mark(name(row), group="ratio", **row["ratio"]) for row in rows]
    return plot_panels([Panel("", marks, aim)], path, title=title, x_label=x_label)


def plot_lines(
    series: Mapping[str, Mapping[float, Sequence[float]]],
    path: Path,
    *,
    title: str,
    x_label: str,
    y_label: str,
) -> Path:
    """Draw series over a number, both axes logarithmic: medians, whiskers to the extremes.

    Args:
        series: by name, the measured values at every x.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.subplots()
        for i, (name, values_at) in enumerate(series.items()):
            marks = [_mark(name, values) for values in values_at.values()]
            look = {"color": _COLOURS[i % 8], "marker": _SIGNS[i % 8]}
            middles = [mark.median for mark in marks]
            axes.errorbar(
                list(values_at), middles, yerr=_whiskers(marks), capsize=2, label=name, **look
            )
        axes.set_xscale("log", base=2)
        axes.set(yscale="log", title=title, xlabel=x_label, ylabel=y_label)
        axes.grid(True)
        axes.legend(frameon=False)
        _save(figure, path)
    return path


def _mark(name: str, values: Sequence[float]) -> Mark:
    return Mark(name=name, group=name, **spread(values))


def _draw_panel(axes: Axes, panel: Panel, looks: Mapping[str, tuple[str, str]]) -> None:
    for i, mark in enumerate(panel.marks):
        colour, sign = looks[mark.group]
        axes.errorbar(
            mark.median, i, xerr=_whiskers([mark]), color=colour, marker=sign, capsize=2.5
        )
    axes.set_title(panel.title, loc="left", fontweight="bold")
    axes.set_yticks(range(len(panel.marks)), [mark.name for mark in panel.marks])
    axes.set_ylim(len(panel.marks) - 0.4, -0.6)
    axes.grid(axis="x")
    if panel.aim is not None:
        axes.axvline(panel.aim, color=_AIM, linestyle="--", linewidth=1)


def _needs_logarithm(panels: Sequence[Panel]) -> bool:
    """Whether the slowest mark would push the others together."""
    medians = [mark.median for panel in panels for mark in panel.marks]
    return max(medians) > 8 * min(medians)


def _whiskers(marks: Sequence[Mark]) -> tuple[list[float], list[float]]:
    """How far the extremes lie below and above the medians."""
    below = [mark.median - mark.lowest for mark in marks]
    return below, [mark.highest - mark.median for mark in marks]


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
