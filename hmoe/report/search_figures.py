"""Figures of how the search went: hypervolume, importance of settings, workers over time."""

import plotly.graph_objects as go

from hmoe.report.effort import hypervolumes, spans
from hmoe.report.importance import importance
from hmoe.report.numbers import duration, percent
from hmoe.report.style import COLOURS, INK, label, lay_out, look_of
from hmoe.report.tables import arms
from hmoe.tracking import Study

_LANE_PX = 34
_BAR_PX = 30


def hypervolume_figure(study: Study) -> go.Figure | None:
    """What the trials so far dominate, for all arms together and for each alone."""
    histories = hypervolumes(study)
    if not histories:
        return None
    figure = go.Figure()
    for arm, values in histories.items():
        line = {"color": INK, "width": 2.5}
        if arm:
            look = look_of(study, arm)
            line = {"color": look.colour, "width": 1.5, "dash": look.dash}
        figure.add_scatter(
            x=list(range(1, len(values) + 1)),
            y=values,
            mode="lines",
            name=label(arm) or "all arms",
            line=line | {"shape": "hv"},
            hovertemplate="%{y:.4g} after %{x} trials",
        )
    lay_out(figure, height=340)
    figure.update_xaxes(title_text="complete trials, in the order in which they ended")
    figure.update_yaxes(title_text="hypervolume", rangemode="tozero")
    return figure


def importance_figure(study: Study) -> go.Figure | None:
    """Share of the variance of quality that each setting explains; None with too few trials."""
    rows = importance(study)
    if not rows:
        return None
    figure = go.Figure()
    figure.add_bar(
        x=[row.share for row in rows],
        y=[label(row.setting) for row in rows],
        orientation="h",
        marker_color=COLOURS[0],
        text=[f"{percent(row.share)} (n = {row.n})" for row in rows],
        textposition="outside",
        cliponaxis=False,
        hoverinfo="skip",
    )
    lay_out(figure, height=80 + _BAR_PX * len(rows))
    figure.update_xaxes(tickformat=".0%", range=[0, 1.12], tickvals=[0, 0.25, 0.5, 0.75, 1])
    figure.update_xaxes(title_text="share of the variance of quality's ranks")
    figure.update_yaxes(autorange="reversed")
    return figure


def timeline_figure(study: Study) -> go.Figure | None:
    """Every run as a bar on the lane of its worker; runs that did not complete are hatched."""
    found = spans(study)
    if not found:
        return None
    figure = go.Figure()
    for arm in arms(study):
        own = [span for span in found if span.run.arm == arm]
        figure.add_bar(
            x=[(span.end - span.start) / 60 for span in own],
            base=[span.start / 60 for span in own],
            y=[span.lane + 1 for span in own],
            orientation="h",
            name=label(arm),
            marker={
                "color": look_of(study, arm).colour,
                "line": {"color": "white", "width": 1},
                "pattern": {
                    "shape": ["" if span.run.state == "complete" else "/" for span in own],
                },
            },
            hovertext=[
                f"<b>{label(span.run.name)}</b><br>{span.run.kind}, {span.run.state}, "
                f"{duration(span.end - span.start)}"
                for span in own
            ],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    lanes = max(span.lane for span in found) + 1
    lay_out(figure, height=130 + _LANE_PX * lanes)
    figure.update_layout(barmode="overlay", bargap=0.25)
    figure.update_xaxes(title_text="minutes since the study began", rangemode="tozero")
    figure.update_yaxes(title_text="worker", tickvals=list(range(1, lanes + 1)), showgrid=False)
    return figure
