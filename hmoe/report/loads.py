"""Figures of the load at every level: one row of panels per arm, one bar per node."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hmoe.report.numbers import percent
from hmoe.report.style import FAINT, INK, label, lay_out, look_of
from hmoe.report.tables import LoadRow, Spread, arms, load_rows
from hmoe.tracking import Study

_MAX_LABELS = 24  # more node names than this cannot be read; they stay in the hover text
_PANELS_PX = 980  # width shared by the panels of one arm on a wide screen
_LETTER_PX = 7.5


def load_figures(study: Study) -> list[tuple[str, go.Figure]]:
    """Per arm the share of rows of every node, one panel a level, even load as a dashed line."""
    rows = load_rows(study)
    figures = []
    for arm in arms(study):
        levels = [row for row in rows if row.arm == arm]
        if levels:
            figures.append((arm, _load_figure(study, levels)))
    return figures


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
        names = [label(node) for node in row.nodes]
        figure.add_bar(
            x=x,
            y=[load.mean for load in row.loads],
            marker_color=look_of(study, row.arm).colour,
            error_y={
                "array": [load.high - load.mean for load in row.loads],
                "arrayminus": [load.mean - load.low for load in row.loads],
                "color": INK,
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
            line={"color": INK, "dash": "dash", "width": 1.5},
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
    lay_out(figure, height=230 + below)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(title_text="share of rows", col=1)
    figure.update_layout(showlegend=False, bargap=0.25, margin={"t": 36, "b": below})
    figure.update_annotations(font={"size": 13, "color": FAINT})
    return figure


def _load_hover(name: str, load: Spread, even: float) -> str:
    span = f"{percent(load.low)} to {percent(load.high)}"
    return f"<b>{name}</b><br>{percent(load.mean)} ({span})<br>even load {percent(even)}"


def _words(level: str) -> str:
    return label(level.replace("_", " "))
