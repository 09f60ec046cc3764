"""Pure functions from a study to plotly figures. An arm has one colour and one sign everywhere.

Plotly reads labels as a kind of HTML, so names from users are escaped before they go in.
"""

from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hmoe.report.answer import better
from hmoe.report.curves import Band, over_seconds, over_steps
from hmoe.report.numbers import NOTHING, number, percent, plus_minus
from hmoe.report.tables import (
    LoadRow,
    Spread,
    arm_rows,
    arms,
    balance_of,
    curve_key,
    load_rows,
    pareto_front,
    quality_of,
    trials,
    value,
    varied_params,
)
from hmoe.tracking import Objective, Run, Study

# Each keeps a contrast of at least 4.5 to white and differs from its neighbours in lightness too.
COLOURS = ("#475569", "#1d4ed8", "#c2410c", "#0f766e", "#9333ea", "#a16207", "#be185d", "#3f6212")
_SIGNS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "x")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_INK, _FAINT, _GRIDLINE = "#1f2937", "#4b5563", "#e5e7eb"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_EARLY = 0.3  # share of a curve whose steep fall would flatten the rest, at first out of view
_MAX_LABELS = 24  # more node names than this cannot be read; they stay in the hover text
_PANELS_PX = 980  # width shared by the panels of one arm on a wide screen
_LETTER_PX = 7.5
_LINE = 72  # characters a line of a command in hover text


class _Look(NamedTuple):
    """How an arm is drawn: the sign and the dashes serve those who do not tell colours apart."""

    colour: str
    sign: str
    dash: str


def colour(study: Study, arm: str) -> str:
    """The colour of an arm."""
    return COLOURS[arms(study).index(arm) % len(COLOURS)]


def pareto_figure(study: Study) -> go.Figure | None:
    """Every complete trial by balance (x) and quality (y), the front as stairs.

    Arms without balance, the dense control, are lines across at their mean, with a band of one
    standard deviation. None when no trial has a quality.
    """
    quality, balance = quality_of(study), balance_of(study)
    rows = [row for row in arm_rows(study) if row.quality]
    if quality is None or balance is None or not rows:
        return None
    front = pareto_front(study)
    on_front = {run.id for run in front}
    x = [b for run in trials(study) if (b := value(run, balance)) is not None] or [0.0, 1.0]
    room = 0.06 * (max(x) - min(x)) or 0.1
    ends = [min(x) - room, max(x) + room]
    figure = go.Figure()
    for row in rows:
        look = _look(study, row.arm)
        if row.balance is None and row.quality:
            mean, sd = row.quality.mean, row.quality.sd
            _reference_line(figure, row.arm, mean, sd, ends, look.colour)
            continue
        runs = [r for r in trials(study) if r.arm == row.arm and value(r, balance) is not None]
        figure.add_scatter(
            x=[value(r, balance) for r in runs],
            y=[value(r, quality) for r in runs],
            mode="markers",
            name=escape(row.arm),
            marker={
                "color": look.colour,
                "symbol": look.sign,
                "size": [13 if r.id in on_front else 10 for r in runs],
                "opacity": [1.0 if r.id in on_front else 0.6 for r in runs],
                "line": {"color": "white", "width": 1},
            },
            hovertext=[hover(study, r) for r in runs],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    if front:
        figure.add_scatter(
            x=[value(r, balance) for r in front],
            y=[value(r, quality) for r in front],
            mode="lines",
            name="Pareto front",
            line={
                "color": _INK,
                "width": 1.5,
                # Between two points nothing better than the one already paid for is reached.
                "shape": "hv" if balance.minimised else "vh",
            },
            hoverinfo="skip",
        )
    _lay_out(figure, height=460)
    figure.update_xaxes(title_text=_axis(balance), range=ends)
    figure.update_yaxes(title_text=_axis(quality))
    return figure


def curve_figure(study: Study, objective: Objective) -> go.Figure | None:
    """Mean and min-max band per arm. Traces carry meta "steps" or "seconds"; steps are shown."""
    metric = curve_key(objective)
    figure = go.Figure()
    late: list[float] = []
    for axis, bands in (("steps", over_steps), ("seconds", over_seconds)):
        for arm in arms(study):
            band = bands(study, arm, metric)
            if band is not None:
                _add_band(figure, study, arm, band, axis)
                late += [
                    y
                    for x, *ys in zip(band.x, band.low, band.high, strict=True)
                    for y in ys
                    if x >= _EARLY * band.x[-1]
                ]
    if not figure.data:
        return None
    room = 0.05 * (max(late) - min(late)) or 0.1
    _lay_out(figure, height=400)
    figure.update_xaxes(title_text="training steps")
    figure.update_yaxes(
        title_text=_axis(Objective(metric, objective.direction)),
        range=[min(late) - room, max(late) + room],
    )
    figure.update_layout(hovermode="x unified")
    return figure


def load_figures(study: Study) -> list[tuple[str, go.Figure]]:
    """Per arm the share of rows of every node, one panel a level, even load as a dashed line."""
    rows = load_rows(study)
    figures = []
    for arm in arms(study):
        levels = [row for row in rows if row.arm == arm]
        if levels:
            figures.append((arm, _load_figure(study, levels)))
    return figures


def hover(study: Study, run: Run) -> str:
    """What is said of a trial under the pointer: name, values, swept settings, command."""
    quality, balance = quality_of(study), balance_of(study)
    lines = [f"<b>{escape(run.name)}</b>"]
    if run.tree:
        lines.append(f"tree {_broken(run.tree)}")
    lines += [f"{escape(o.metric)} {number(value(run, o))}" for o in (quality, balance) if o]
    lines += [f"{escape(key)} = {_broken(run.params.get(key, ''))}" for key in varied_params(study)]
    lines.append(f"seed {run.seed}, {number(run.cost.get('active_params'))} active parameters")
    lines.append(f"<span style='font-family:monospace'>{_broken(run.command)}</span>")
    return "<br>".join(lines)


def _look(study: Study, arm: str) -> _Look:
    place = arms(study).index(arm)
    return _Look(colour(study, arm), _SIGNS[place % len(_SIGNS)], _DASHES[place % len(_DASHES)])


def _reference_line(
    figure: go.Figure, name: str, mean: float, sd: float | None, ends: list[float], paint: str
) -> None:
    text = f"{escape(name)} {plus_minus(mean, sd)}"
    if sd:
        figure.add_scatter(
            x=[*ends, *reversed(ends)],
            y=[mean - sd] * 2 + [mean + sd] * 2,
            mode="lines",
            fill="toself",
            fillcolor=_tint(paint),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
    figure.add_scatter(
        x=ends,
        y=[mean] * 2,
        mode="lines+text",
        name=f"{escape(name)} (has no balance)",
        line={"color": paint, "dash": "dash", "width": 2},
        text=["", text],
        textposition="top left",
        textfont={"color": paint},
        hovertemplate=f"{text}<extra></extra>",
    )


def _add_band(figure: go.Figure, study: Study, arm: str, band: Band, axis: str) -> None:
    look, shown = _look(study, arm), axis == "steps"
    common = {"legendgroup": escape(arm), "meta": axis, "visible": shown}
    figure.add_scatter(
        x=[*band.x, *reversed(band.x)],
        y=[*band.high, *reversed(band.low)],
        mode="lines",
        fill="toself",
        fillcolor=_tint(look.colour),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        **common,
    )
    figure.add_scatter(
        x=band.x,
        y=band.mean,
        mode="lines",
        name=escape(arm),
        line={"color": look.colour, "dash": look.dash, "width": 2},
        text=[f"{number(a)} to {number(b)}" for a, b in zip(band.low, band.high, strict=True)],
        hovertemplate=f"%{{y:.4g}} (%{{text}}, n = {band.n})",
        **common,
    )


def _load_figure(study: Study, levels: Sequence[LoadRow]) -> go.Figure:
    widths = [min(max(len(row.nodes), 3), 16) for row in levels]
    figure = make_subplots(
        rows=1,
        cols=len(levels),
        column_widths=widths,
        horizontal_spacing=0.07 if len(levels) > 1 else 0,
        subplot_titles=[f"{_words(row.level)}: {len(row.nodes)} nodes" for row in levels],
    )
    below = 30  # pixels for the names
    for column, row in enumerate(levels, start=1):
        x = list(range(len(row.nodes)))
        names = [escape(node) for node in row.nodes]
        figure.add_bar(
            x=x,
            y=[load.mean for load in row.loads],
            marker_color=colour(study, row.arm),
            error_y={
                "array": [load.high - load.mean for load in row.loads],
                "arrayminus": [load.mean - load.low for load in row.loads],
                "color": _INK,
                "thickness": 1,
                "width": 2,
            },
            text=[_load_hover(*node) for node in zip(names, row.loads, row.even, strict=True)],
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
            row=1,
            col=column,
        )
        # Level over its bar, so that nodes of different size each show their own even load.
        figure.add_scatter(
            x=[edge for i in x for edge in (i - 0.5, i + 0.5)],
            y=[share for share in row.even for _ in range(2)],
            mode="lines",
            line={"color": _INK, "dash": "dash", "width": 1.5},
            hoverinfo="skip",
            row=1,
            col=column,
        )
        labelled = len(names) <= _MAX_LABELS
        letters = sum(len(node) + 1 for node in row.nodes)
        crowded = letters * _LETTER_PX > _PANELS_PX * widths[column - 1] / sum(widths)
        figure.update_xaxes(
            tickvals=x if labelled else [],
            ticktext=names if labelled else [],
            tickangle=-45 if crowded else 0,
            showgrid=False,
            col=column,
        )
        if labelled and crowded:
            below = max(below, round(0.7 * _LETTER_PX * max(map(len, row.nodes))))
    _lay_out(figure, height=230 + below)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(title_text="share of rows", col=1)
    figure.update_layout(showlegend=False, bargap=0.25, margin={"t": 36, "b": below})
    figure.update_annotations(font={"size": 13, "color": _FAINT})
    return figure


def _load_hover(name: str, load: Spread, even: float) -> str:
    span = f"{percent(load.low)} to {percent(load.high)}"
    return f"<b>{name}</b><br>{percent(load.mean)} ({span})<br>even load {percent(even)}"


def _lay_out(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 28, "t": 16, "b": 52},
        font={"family": _FONT, "size": 13, "color": _INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        modebar={"bgcolor": "white", "color": "#6b7280", "activecolor": _INK},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"size": 12, "color": _INK}},
    )
    axes = {"gridcolor": _GRIDLINE, "linecolor": _FAINT, "zeroline": False, "automargin": True}
    figure.update_xaxes(showline=True, ticks="outside", tickcolor=_FAINT, **axes)
    figure.update_yaxes(**axes)


def _axis(objective: Objective) -> str:
    return f"{escape(objective.metric)} ({better(objective)})"


def _words(level: str) -> str:
    return escape(level.replace("_", " "))


def _tint(paint: str) -> str:
    red, green, blue = (int(paint[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"


def _broken(text: str) -> str:
    """Escaped text in lines short enough for a hover box."""
    return "<br>".join(escape(line) for line in wrap(text, _LINE)) or NOTHING
