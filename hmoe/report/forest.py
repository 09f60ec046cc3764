"""The forest plot: paired differences of the confirmed arms, every seed a dot."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hmoe.report.numbers import p_value
from hmoe.report.style import FAINT, INK, label, lay_out, look_of
from hmoe.report.verdicts import PairRow, common_reference, forest_panels, needed
from hmoe.tracking import Study

_ROW_PX = 58
_PANEL_PX = 92  # axis, title and gap of a panel
_MARGIN = "rgba(71,85,105,0.13)"
_DOTS_BELOW = 0.24  # of a row: seeds lie under their mean, where the interval does not hide them


def forest_figure(study: Study) -> go.Figure | None:
    """One panel a metric, one row an arm: seeds, mean, both intervals, and the margin as a band.

    None before any pair has an interval.
    """
    panels = forest_panels(study)
    if not panels:
        return None
    sizes = [len(rows) for rows in panels.values()]
    height = sum(_ROW_PX * size + _PANEL_PX for size in sizes)
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        row_heights=sizes,
        vertical_spacing=_PANEL_PX / height if len(panels) > 1 else 0,
    )
    for panel, rows in enumerate(panels.values(), start=1):
        _add_panel(figure, study, rows, panel)
    lay_out(figure, height=height)
    figure.update_layout(showlegend=False, margin={"t": 12, "b": 56})
    figure.update_yaxes(showgrid=False, zeroline=False)
    return figure


def _add_panel(figure: go.Figure, study: Study, rows: list[PairRow], panel: int) -> None:
    place = {"row": panel, "col": 1}
    margin, reference = rows[0].margin, common_reference(rows)
    ticks = []
    for i, row in enumerate(rows):
        found = row.judgement.estimate
        assert found is not None
        y, look = len(rows) - 1 - i, look_of(study, row.arm)
        beside = "" if reference else f" \u2212 {label(row.reference)}"
        ticks.append((y, f"<b>{label(row.arm)}</b>{beside}<br>{row.judgement.verdict}"))
        figure.add_scatter(
            x=row.differences,
            y=[y - _DOTS_BELOW] * len(row.differences),
            mode="markers",
            marker={"color": look.colour, "size": 7, "opacity": 0.55},
            text=[f"seed {seed}" for seed in row.seeds],
            hovertemplate=f"{label(row.arm)}, %{{text}}: %{{x:+.4g}}<extra></extra>",
            **place,
        )
        for drawn, thickness, width in ((row.judgement.inner, 7, 0), (found, 2, 6)):
            assert drawn is not None
            figure.add_scatter(
                x=[drawn.mean],
                y=[y],
                mode="markers",
                marker={"color": look.colour, "symbol": look.sign, "size": 11},
                error_x={
                    "array": [drawn.high - drawn.mean],
                    "arrayminus": [drawn.mean - drawn.low],
                    "color": look.colour,
                    "thickness": thickness,
                    "width": width,
                },
                hovertext=_hover(row),
                hovertemplate="%{hovertext}<extra></extra>",
                **place,
            )
    # After the traces: a panel without any would be passed over.
    figure.add_vrect(x0=-margin, x1=margin, fillcolor=_MARGIN, line_width=0, layer="below", **place)
    figure.add_vline(x=0, line={"color": FAINT, "width": 1.5}, layer="below", **place)
    figure.update_yaxes(
        tickvals=[y for y, _ in ticks],
        ticktext=[text for _, text in ticks],
        range=[-0.6, len(rows) - 0.4],
        **place,
    )
    side = "left" if rows[0].minimised else "right"
    figure.update_xaxes(
        title_text=f"{label(rows[0].metric)}: difference to "
        f"{label(reference) if reference else 'the arm beside it'} ({side} is better)",
        title_font={"color": INK},
        **place,
    )


def _hover(row: PairRow) -> str:
    judged = row.judgement
    lines = [
        f"<b>{label(row.arm)}</b>: {judged.verdict}",
        f"{row.interval}, margin {row.margin:g}",
        f"p {p_value(judged.difference_p)} of no difference, "
        f"{p_value(judged.equivalence_p)} of one beyond the margin",
    ]
    if judged.verdict == "undecided":
        lines.append(needed(row))
    return "<br>".join(lines)
