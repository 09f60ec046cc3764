"""Figures for a paper: SVG files by matplotlib, in the colours and signs of the page."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hmoe.report.answer import better
from hmoe.report.style import FAINT, INK, look_of
from hmoe.report.tables import (
    arm_rows,
    arms,
    balance_of,
    pareto_front,
    quality_of,
    trials,
    value,
)
from hmoe.report.verdicts import PairRow, common_reference, confirm_runs, cross, forest_panels
from hmoe.tracking import Study

WIDTH = 5.5  # inches, the width of a column in most templates
_SIGNS = {  # plotly's names of signs to matplotlib's
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "cross": "P",
    "star": "*",
    "hexagon": "h",
    "x": "X",
}
_STYLE = {
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "hmoe",  # the same study makes the same file
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write_paper(study: Study, out: Path) -> list[Path]:
    """Write forest.svg and pareto.svg, as far as the study has them; returns their paths."""
    return write_figures({"forest": lambda: _forest(study), "pareto": lambda: _pareto(study)}, out)


def styled() -> AbstractContextManager[None]:
    """Within it matplotlib draws as the page does."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)  # type: ignore[arg-type]


def write_figures(drawings: Mapping[str, Callable[[], Any]], out: Path) -> list[Path]:
    """Draw and write figures by their names, those that are not None; returns their paths."""
    written = []
    with styled():
        for name, draw in drawings.items():
            figure = draw()
            if figure is not None:
                out.mkdir(parents=True, exist_ok=True)
                written.append(out / f"{name}.svg")
                figure.savefig(written[-1], bbox_inches="tight", metadata={"Date": None})
    return written


def empty_figure(panels: int, height: float) -> tuple[Any, list[Any]]:
    """A figure that no window shows, and its panels, one under the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(panels, 1, squeeze=False)[:, 0])


def _forest(study: Study) -> Any:
    panels = forest_panels(study)
    if not panels:
        return None
    height = sum(0.45 * len(rows) + 0.8 for rows in panels.values())
    figure, places = empty_figure(len(panels), height)
    for axes, rows in zip(places, panels.values(), strict=True):
        _forest_panel(axes, study, rows)
    return figure


def _forest_panel(axes: Any, study: Study, rows: list[PairRow]) -> None:
    axes.axvspan(-rows[0].margin, rows[0].margin, color=FAINT, alpha=0.13, linewidth=0)
    axes.axvline(0, color=FAINT, linewidth=1)
    for y, row in enumerate(rows):
        found, inner, look = row.judgement.estimate, row.judgement.inner, look_of(study, row.arm)
        assert found is not None
        assert inner is not None
        below = [y + 0.24] * len(row.differences)
        axes.plot(row.differences, below, "o", color=look.colour, alpha=0.5, markersize=3)
        half, sign = found.high - found.mean, _SIGNS[look.sign]
        axes.plot(
            [inner.low, inner.high], [y, y], color=look.colour, linewidth=4, solid_capstyle="butt"
        )
        axes.errorbar(found.mean, y, xerr=half, fmt=sign, color=look.colour, capsize=3)
    reference = common_reference(rows)
    beside = ["" if reference else f" \u2212 {plain(row.reference)}" for row in rows]
    labels = [
        f"{plain(row.arm)}{other}\n{row.judgement.verdict}"
        for row, other in zip(rows, beside, strict=True)
    ]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    side = "left" if rows[0].minimised else "right"
    axes.set_xlabel(
        f"{plain(rows[0].metric)}: difference to {plain(reference or 'the arm beside it')} "
        f"({side} is better)"
    )


def _pareto(study: Study) -> Any:
    quality, balance = quality_of(study), balance_of(study)
    front = pareto_front(study)
    if quality is None or balance is None or not front:
        return None
    figure, (axes,) = empty_figure(1, 3.6)
    for row in arm_rows(study):
        if row.balance is None and row.quality:
            paint, mean = look_of(study, row.arm).colour, row.quality.mean
            axes.axhline(mean, color=paint, linestyle="--", linewidth=1, label=plain(row.arm))
    alpha = 0.25 if confirm_runs(study) else 0.8
    for arm in arms(study):
        look, own = look_of(study, arm), [run for run in trials(study) if run.arm == arm]
        both = [(value(run, balance), value(run, quality)) for run in own]
        points = [(x, y) for x, y in both if x is not None and y is not None]
        if points:
            name = None if confirm_runs(study) else plain(arm)
            style = {"color": look.colour, "alpha": alpha, "markersize": 4, "label": name}
            axes.plot(*zip(*points, strict=True), _SIGNS[look.sign], **style)
    for arm in arms(study):
        if found := cross(study, arm):
            x, y, _ = found
            look = look_of(study, arm)
            style = {"color": look.colour, "label": plain(arm)}
            axes.errorbar(x.mean, y.mean, y.sd, x.sd, _SIGNS[look.sign], **style)
    steps = "steps-post" if balance.minimised else "steps-pre"
    stair = [(value(run, balance), value(run, quality)) for run in front]
    axes.plot(*zip(*stair, strict=True), color=INK, linewidth=1, drawstyle=steps)
    axes.set_xlabel(f"{plain(balance.metric)} ({better(balance)})")
    axes.set_ylabel(f"{plain(quality.metric)} ({better(quality)})")
    axes.legend(frameon=False)
    return figure


def plain(text: str) -> str:
    """Text from a user: matplotlib would read what stands between dollar signs as mathematics."""
    return text.replace("$", r"\$")
