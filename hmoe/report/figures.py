"""Pure functions from a study to plotly figures: quality against balance, and learning curves.

Plotly reads labels as a kind of HTML, so names from users go in through `label`.
"""

from textwrap import wrap

import plotly.graph_objects as go

from hmoe.report.answer import better
from hmoe.report.curves import Band, over_seconds, over_steps
from hmoe.report.numbers import NOTHING, count, number, plus_minus
from hmoe.report.style import INK, label, lay_out, look_of, tint
from hmoe.report.tables import (
    arm_rows,
    arms,
    balance_of,
    curve_key,
    pareto_front,
    quality_of,
    trials,
    value,
    varied_params,
)
from hmoe.report.verdicts import confirm_runs, cross
from hmoe.tracking import Objective, Run, Study

_EARLY = 0.3  # share of a curve whose steep fall would flatten the rest, at first out of view
_OFF_LINE_PX = 3  # a label above its line
_LINE = 72  # characters a line of a command in hover text


def pareto_figure(study: Study) -> go.Figure | None:
    """Every complete trial by balance (x) and quality (y), the front as stairs.

    Confirmed arms are larger signs with whiskers, mean ± standard deviation over their seeds both
    ways, and the trials faint behind them.
    Arms without balance, the dense control, are lines across at their mean, with a band of one
    standard deviation. None when no trial has a quality.
    """
    quality, balance = quality_of(study), balance_of(study)
    rows = [row for row in arm_rows(study) if row.quality]
    if quality is None or balance is None or not rows:
        return None
    front = pareto_front(study)
    on_front = {run.id for run in front}
    runs = [*trials(study), *confirm_runs(study)]
    x = [b for run in runs if (b := value(run, balance)) is not None] or [0.0, 1.0]
    room = 0.06 * (max(x) - min(x)) or 0.1
    ends = [min(x) - room, max(x) + room]
    figure = go.Figure()
    confirmed = {r.arm for r in confirm_runs(study) if value(r, balance) is not None}
    seen, best_seen = (0.25, 0.45) if confirmed else (0.6, 1.0)
    for row in rows:
        look = look_of(study, row.arm)
        if row.balance is None and row.quality:
            mean, sd = row.quality.mean, row.quality.sd
            _reference_line(figure, row.arm, mean, sd, ends, look.colour)
            continue
        runs = [r for r in trials(study) if r.arm == row.arm and value(r, balance) is not None]
        figure.add_scatter(
            x=[value(r, balance) for r in runs],
            y=[value(r, quality) for r in runs],
            mode="markers",
            name=label(row.arm),
            legendgroup=label(row.arm),
            showlegend=row.arm not in confirmed,
            marker={
                "color": look.colour,
                "symbol": look.sign,
                "size": [13 if r.id in on_front else 10 for r in runs],
                "opacity": [best_seen if r.id in on_front else seen for r in runs],
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
                "color": INK,
                "width": 1.5,
                # Between two points nothing better than the one already paid for is reached.
                "shape": "hv" if balance.minimised else "vh",
            },
            hoverinfo="skip",
        )
    for row in rows:
        _add_cross(figure, study, row.arm, balance, quality)
    lay_out(figure, height=460)
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
    lay_out(figure, height=400)
    figure.update_xaxes(title_text="training steps")
    figure.update_yaxes(
        title_text=_axis(Objective(metric, objective.direction)),
        range=[min(late) - room, max(late) + room],
    )
    figure.update_layout(hovermode="x unified")
    return figure


def hover(study: Study, run: Run) -> str:
    """What is said of a trial under the pointer: name, values, swept settings, command."""
    quality, balance = quality_of(study), balance_of(study)
    lines = [f"<b>{label(run.name)}</b>"]
    if run.tree:
        lines.append(f"tree {_broken(run.tree)}")
    lines += [f"{label(o.metric)} {number(value(run, o))}" for o in (quality, balance) if o]
    lines += [f"{label(key)} = {_broken(run.params.get(key, ''))}" for key in varied_params(study)]
    lines.append(f"seed {run.seed}, {number(run.cost.get('active_params'))} active parameters")
    lines.append(f"<span style='font-family:monospace'>{_broken(run.command)}</span>")
    return "<br>".join(lines)


def _reference_line(
    figure: go.Figure, name: str, mean: float, sd: float | None, ends: list[float], paint: str
) -> None:
    text = f"{label(name)} {plus_minus(mean, sd)}"
    if sd:
        figure.add_scatter(
            x=[*ends, *reversed(ends)],
            y=[mean - sd] * 2 + [mean + sd] * 2,
            mode="lines",
            fill="toself",
            fillcolor=tint(paint),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
    figure.add_scatter(
        x=ends,
        y=[mean] * 2,
        mode="lines",
        name=f"{label(name)} (has no balance)",
        line={"color": paint, "dash": "dash", "width": 2},
        hovertemplate=f"{text}<extra></extra>",
    )
    figure.add_annotation(
        x=ends[1],
        y=mean,
        text=text,
        showarrow=False,
        xanchor="right",
        yanchor="bottom",
        yshift=_OFF_LINE_PX,
        font={"color": paint},
    )


def _add_cross(
    figure: go.Figure, study: Study, arm: str, balance: Objective, quality: Objective
) -> None:
    """The confirmed arm, with its deviations over seeds both ways."""
    found = cross(study, arm)
    if found is None:
        return
    x, y, seeds = found
    look = look_of(study, arm)
    bar = {"color": look.colour, "thickness": 2, "width": 0}
    figure.add_scatter(
        x=[x.mean],
        y=[y.mean],
        error_x={"array": [x.sd or 0.0], **bar},
        error_y={"array": [y.sd or 0.0], **bar},
        mode="markers",
        name=label(arm),
        legendgroup=label(arm),
        marker={
            "color": look.colour,
            "symbol": look.sign,
            "size": 12,
            "line": {"color": INK, "width": 1.5},
        },
        hovertext=f"<b>{label(arm)}</b>, {count(seeds, 'fresh seed')}<br>"
        f"{label(quality.metric)} {plus_minus(y.mean, y.sd)}<br>"
        f"{label(balance.metric)} {plus_minus(x.mean, x.sd)}",
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _add_band(figure: go.Figure, study: Study, arm: str, band: Band, axis: str) -> None:
    look, shown = look_of(study, arm), axis == "steps"
    common = {"legendgroup": label(arm), "meta": axis, "visible": shown}
    figure.add_scatter(
        x=[*band.x, *reversed(band.x)],
        y=[*band.high, *reversed(band.low)],
        mode="lines",
        fill="toself",
        fillcolor=tint(look.colour),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        **common,
    )
    figure.add_scatter(
        x=band.x,
        y=band.mean,
        mode="lines",
        name=label(arm),
        line={"color": look.colour, "dash": look.dash, "width": 2},
        text=[f"{number(a)} to {number(b)}" for a, b in zip(band.low, band.high, strict=True)],
        hovertemplate=f"%{{y:.4g}} (%{{text}}, n = {band.n})",
        **common,
    )


def _axis(objective: Objective) -> str:
    return f"{label(objective.metric)} ({better(objective)})"


def _broken(text: str) -> str:
    """Escaped text in lines short enough for a hover box."""
    return "<br>".join(label(line) for line in wrap(text, _LINE)) or NOTHING
