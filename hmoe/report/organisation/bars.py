"""Numbers level by level, and node by node: decompositions, information, masking, policies.

Letters: L levels, N nodes, P nodes of a level.
"""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hmoe.metrics import Knowledge
from hmoe.report.numbers import decimals, p_value
from hmoe.report.organisation.matrix import similar_order
from hmoe.report.organisation.paint import EVEN
from hmoe.report.organisation.view import View, level_word
from hmoe.report.style import COLOURS, FAINT, INK, label, lay_out

PARTS = {
    "kl": "KL to even load (nats)",
    "cv2": "CV² of load",
    "violation": "log of 1 + max violation",
}
_MOST_MASKED, _MOST_TOGETHER = 24, 64
_CONTROL = "#9ca3af"
_LITTLE = 0.1  # of what there is to know, and of AMI


def level_words(view: View) -> list[str]:
    return [level_word(view.tree, i) for i in range(view.tree.num_levels)]


def decomposition_figure(view: View) -> go.Figure | None:
    """What each level adds to the unevenness of the load; bars of a panel add up to the whole."""
    parts = {key: view.layer.decomposition[key] for key in PARTS if key in view.layer.decomposition}
    if not parts:
        return None
    titles = [f"{PARTS[key]}: {decimals(float(v.sum()))}" for key, v in parts.items()]
    figure = make_subplots(1, len(parts), subplot_titles=titles, horizontal_spacing=0.08)
    for column, values_L in enumerate(parts.values(), start=1):
        figure.add_bar(
            x=level_words(view),
            y=values_L,
            marker_color=[_colour(i) for i in range(len(values_L))],
            text=[decimals(float(v)) for v in values_L],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{x}: %{y:.4g}<extra></extra>",
            row=1,
            col=column,
        )
    _finish(figure, 300)
    _turn_crowded(figure, view)
    figure.update_layout(showlegend=False)
    return figure


def information_figure(view: View, knowledge: Knowledge) -> go.Figure:
    """What each level tells of a label beside chance, and beside k-means clusters of the inputs."""
    titles = [
        f"information on {label(knowledge.label)} (nats; it has {decimals(knowledge.entropy)})",
        "AMI with the nodes of a level",
    ]
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.1)
    words = level_words(view)
    figure.add_bar(
        x=words,
        y=knowledge.information_L,
        name="router",
        legendgroup="router",
        marker_color=COLOURS[1],
        hovertemplate="%{x}: %{y:.4g} nats<extra></extra>",
        row=1,
        col=1,
    )
    figure.add_scatter(
        x=words,
        y=knowledge.null_L,
        name="chance (labels permuted)",
        mode="markers",
        marker={"symbol": "line-ew", "size": 34, "line": {"width": 3, "color": COLOURS[2]}},
        hovertemplate="chance: %{y:.4g} nats<extra></extra>",
        row=1,
        col=1,
    )
    higher_L = np.fmax(knowledge.information_L, knowledge.null_L)
    # Next to nothing is to look like it.
    most = max(float(higher_L.max()), _LITTLE * knowledge.entropy)
    figure.add_scatter(
        x=words,
        y=higher_L + 0.02 * most,
        mode="text",
        text=[f"p {'' if p < 0.0005 else '= '}{p_value(float(p))}" for p in knowledge.p_L],
        textposition="top center",
        showlegend=False,
        hoverinfo="skip",
        row=1,
        col=1,
    )
    figure.add_bar(
        x=words,
        y=knowledge.ami_L,
        name="router",
        legendgroup="router",
        showlegend=False,
        marker_color=COLOURS[1],
        hovertemplate="router: %{y:.3f}<extra></extra>",
        row=1,
        col=2,
    )
    figure.add_bar(
        x=words,
        y=knowledge.clusters_ami_L,
        name="k-means of the inputs",
        marker_color=_CONTROL,
        hovertemplate="k-means: %{y:.3f}<extra></extra>",
        row=1,
        col=2,
    )
    _finish(figure, 340)
    _turn_crowded(figure, view)
    figure.update_layout(margin={"t": 70}, legend={"y": 1.13})
    figure.update_yaxes(range=[0, 1.2 * most], col=1)
    both = np.nan_to_num(np.concatenate([knowledge.ami_L, knowledge.clusters_ami_L]))
    figure.update_yaxes(range=[min(1.1 * both.min(), 0), max(1.1 * both.max(), _LITTLE)], col=2)
    return figure


def masking_figure(view: View) -> go.Figure | None:
    """Rise of the loss without a node, the nodes that are missed most."""
    tried = np.flatnonzero(np.isfinite(view.layer.masked_N))
    if not len(tried):
        return None
    most = tried[np.argsort(-view.layer.masked_N[tried], kind="stable")][:_MOST_MASKED]
    figure = go.Figure()
    for level, word in enumerate(level_words(view)):
        own = [i for i, node in enumerate(most) if view.tree.level_N[node] == level]
        if own:
            figure.add_bar(
                x=own,
                y=view.layer.masked_N[most[own]],
                name=word,
                marker_color=_colour(level),
                hovertext=[label(view.tree.path_N[most[i]]) for i in own],
                hovertemplate="without %{hovertext}: %{y:+.4f}<extra></extra>",
            )
    names = [label(view.tree.path_N[node]) for node in most]
    _finish(figure, 330)
    crowded = sum(len(n) + 2 for n in names) * 7 > 900
    figure.update_layout(barmode="overlay", margin={"t": 40})
    figure.update_xaxes(
        tickvals=list(range(len(most))), ticktext=names, tickangle=-45 if crowded else 0
    )
    figure.update_yaxes(title_text="rise of the loss")
    return figure


def policies_figure(view: View) -> go.Figure | None:
    """Search policies: the share of the best experts that each finds, and its loss."""
    layer = view.layer
    names = list(dict.fromkeys([*layer.recall, *layer.policy_loss]))
    if not names:
        return None
    panels = [("recall of the exact choice", layer.recall), ("loss", layer.policy_loss)]
    shown = [(title, values) for title, values in panels if values]
    figure = make_subplots(
        1,
        len(shown),
        shared_yaxes=True,
        subplot_titles=[t for t, _ in shown],
        horizontal_spacing=0.06,
    )
    for column, (title, values) in enumerate(shown, start=1):
        figure.add_scatter(
            x=[values.get(name) for name in names],
            y=[label(name) for name in names],
            mode="markers+text",
            text=[decimals(values[name]) if name in values else "" for name in names],
            textposition="middle right",
            cliponaxis=False,
            marker={"size": 11, "color": COLOURS[column]},
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
            row=1,
            col=column,
        )
        if title == "loss":
            figure.add_vline(
                x=view.inspection.tried_loss,
                line={"dash": "dash", "color": INK, "width": 1},
                col=column,
            )
    _finish(figure, 120 + 44 * len(names))
    figure.update_layout(showlegend=False, margin={"t": 36, "r": 64})
    figure.update_yaxes(range=[len(names) - 0.5, -0.5])
    figure.update_xaxes(nticks=6)
    return figure


def together_figure(view: View) -> go.Figure | None:
    """Which nodes serve the same tokens, for the last level that was measured and can be read."""
    tables = [
        (level, view.layer.coactivation[f"level_{level}"])
        for level in range(view.tree.num_levels)
        if f"level_{level}" in view.layer.coactivation
    ]
    fit = [(level, t) for level, t in tables if 1 < len(t) <= _MOST_TOGETHER]
    if not fit:
        return None
    level, table_PP = fit[-1]
    off_PP = np.array(table_PP, dtype=float)
    np.fill_diagonal(off_PP, np.nan)  # a node always serves the tokens it serves
    if not np.nan_to_num(off_PP).any():
        return None
    both = np.nan_to_num(off_PP)
    order = similar_order(both + both.T)
    paths = [view.tree.path_N[node] for node in view.tree.cut(level)]
    names = [label(paths[i]) for i in order]
    figure = go.Figure(
        go.Heatmap(
            x=list(range(len(names))),
            y=list(range(len(names))),
            z=off_PP[np.ix_(order, order)].astype(np.float32),
            colorscale=[[0, EVEN], [1, COLOURS[1]]],
            zmin=0,
            colorbar={"tickformat": ".0%", "thickness": 12, "outlinewidth": 0},
            xgap=1,
            ygap=1,
            hovertemplate="%{z:.1%}<extra></extra>",
        )
    )
    lay_out(figure, height=max(300, 120 + 18 * len(names)))
    figure.update_layout(margin={"r": 8, "t": 36})
    crowded = sum(len(n) + 2 for n in names) * 6.5 > 860
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "tickfont": {"size": 11}}
    figure.update_xaxes(
        showgrid=False, title_text="also served by", tickangle=-90 if crowded else 0, **ticks
    )
    figure.update_yaxes(showgrid=False, title_text="tokens of", autorange="reversed", **ticks)
    return figure


def _finish(figure: go.Figure, height: int) -> None:
    lay_out(figure, height=height)
    figure.update_layout(margin={"t": 44}, bargap=0.35)
    figure.update_annotations(font={"size": 13, "color": FAINT})
    figure.update_xaxes(showgrid=False)


def _turn_crowded(figure: go.Figure, view: View) -> None:
    """Names of many levels do not fit side by side."""
    figure.update_xaxes(tickangle=-40 if view.tree.num_levels > 3 else 0)


def _colour(level: int) -> str:
    return COLOURS[1 + level % (len(COLOURS) - 1)]
