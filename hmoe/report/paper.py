"""Figures for a paper: SVG files by matplotlib, in the colours and signs of the page."""

from pathlib import Path
from typing import Any

from hmoe.report.answer import better
from hmoe.report.style import FAINT, INK, look_of
from hmoe.report.tables import (
    arm_rows,
    balance_of,
    pareto_front,
    quality_of,
    spread,
    trials,
    value,
)
from hmoe.report.verdicts import PairRow, confirm_runs, pair_rows
from hmoe.tracking import Study

_WIDTH = 5.5  # inches, the width of a column in most templates
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
    import matplotlib

    written = []
    with matplotlib.rc_context(_STYLE):
        for name, figure in (("forest", _forest(study)), ("pareto", _pareto(study))):
            if figure is not None:
                out.mkdir(parents=True, exist_ok=True)
                written.append(out / f"{name}.svg")
                figure.savefig(written[-1], bbox_inches="tight", metadata={"Date": None})
    return written


def _figure(panels: int, height: float) -> tuple[Any, list[Any]]:
    """A figure that no window shows, and its panels, one under the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(panels, 1, squeeze=False)[:, 0])


def _forest(study: Study) -> Any:
    rows = [row for row in pair_rows(study) if row.judgement.estimate]
    metrics = list(dict.fromkeys(row.metric for row in rows))
    if not rows:
        return None
    figure, panels = _figure(len(metrics), 0.45 * len(rows) + 0.8 * len(metrics))
    for axes, metric in zip(panels, metrics, strict=True):
        _forest_panel(axes, study, [row for row in rows if row.metric == metric])
    return figure


def _forest_panel(axes: Any, study: Study, rows: list[PairRow]) -> None:
    axes.axvspan(-rows[0].margin, rows[0].margin, color=FAINT, alpha=0.13, linewidth=0)
    axes.axvline(0, color=FAINT, linewidth=1)
    for y, row in enumerate(rows):
        found, look = row.judgement.estimate, look_of(study, row.arm)
        assert found is not None
        below = [y + 0.24] * len(row.differences)
        axes.plot(row.differences, below, "o", color=look.colour, alpha=0.5, markersize=3)
        half = found.high - found.mean
        sign = _SIGNS[look.sign]
        axes.errorbar(found.mean, y, xerr=half, fmt=sign, color=look.colour, capsize=3)
    labels = [f"{_text(row.arm)}\n{row.judgement.verdict}" for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    side = "left" if rows[0].minimised else "right"
    axes.set_xlabel(
        f"{_text(rows[0].metric)}: difference to {_text(rows[0].reference)} ({side} is better)"
    )


def _pareto(study: Study) -> Any:
    quality, balance = quality_of(study), balance_of(study)
    front = pareto_front(study)
    if quality is None or balance is None or not front:
        return None
    figure, (axes,) = _figure(1, 3.6)
    for row in arm_rows(study):
        if row.balance is None and row.quality:
            paint, mean = look_of(study, row.arm).colour, row.quality.mean
            axes.axhline(mean, color=paint, linestyle="--", linewidth=1, label=_text(row.arm))
    for runs, faint in ((trials(study), True), (confirm_runs(study), False)):
        for arm in dict.fromkeys(run.arm for run in runs):
            look = look_of(study, arm)
            points = [
                (x, y)
                for run in runs
                if run.arm == arm
                and (x := value(run, balance)) is not None
                and (y := value(run, quality)) is not None
            ]
            if not points:
                continue
            sign = _SIGNS[look.sign]
            if faint:
                alpha = 0.25 if confirm_runs(study) else 0.8
                name = None if confirm_runs(study) else _text(arm)
                x, y = zip(*points, strict=True)
                axes.plot(x, y, sign, color=look.colour, alpha=alpha, markersize=4, label=name)
            else:
                x, y = (spread(values) for values in zip(*points, strict=True))
                assert x is not None
                assert y is not None
                axes.errorbar(x.mean, y.mean, y.sd, x.sd, sign, color=look.colour, label=_text(arm))
    steps = "steps-post" if balance.minimised else "steps-pre"
    stair = [(value(run, balance), value(run, quality)) for run in front]
    axes.plot(*zip(*stair, strict=True), color=INK, linewidth=1, drawstyle=steps)
    axes.set_xlabel(f"{_text(balance.metric)} ({better(balance)})")
    axes.set_ylabel(f"{_text(quality.metric)} ({better(quality)})")
    axes.legend(frameon=False)
    return figure


def _text(text: str) -> str:
    """Text from a user: matplotlib would read what stands between dollar signs as mathematics."""
    return text.replace("$", r"\$")
