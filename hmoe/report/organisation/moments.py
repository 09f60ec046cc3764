"""A layer over the training: its load, how sure its gates are, what it still changes.

Letters: S moments, N nodes, P nodes of a cut, L levels, X columns of a picture.
"""

from math import ceil

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hmoe.metrics import History
from hmoe.report.numbers import number
from hmoe.report.organisation.paint import colour_axis, octaves
from hmoe.report.organisation.view import Array, View, counted, level_word
from hmoe.report.style import COLOURS, FAINT, label, lay_out

_MOST_ROWS, _MOST_MOMENTS, _PANELS, _COLUMNS = 48, 60, 6, 64
_DASHES = ("solid", "dash", "dot", "dashdot")
_LETTERS, _LETTER_PX, _WIDTH_PX = 14, 7.5, 900
_NAMED_ROWS = 24  # more names beside a picture cannot be read


def thinned(length: int, most: int) -> Array:
    """At most so many of `length` places, evenly spread, with the first and the last."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int))


def panels_figure(view: View, history: History) -> go.Figure:
    """The whole organisation at some moments: a row a level, a column an expert or several."""
    moments = thinned(len(history.step_S), _PANELS)
    depth = view.tree.num_levels
    figure = make_subplots(
        rows=1,
        cols=len(moments),
        shared_yaxes=True,
        horizontal_spacing=0.012,
        subplot_titles=[f"step {number(int(history.step_S[s]))}" for s in moments],
    )
    order_X = _left_to_right(view)
    for column, moment in enumerate(moments, start=1):
        ratio_N = history.load_SN[moment] / view.even_N
        figure.add_heatmap(
            z=octaves(_picture(view, ratio_N, order_X)).astype(np.float32),
            coloraxis="coloraxis",
            hovertemplate="%{y}<extra></extra>",
            ygap=2,
            row=1,
            col=column,
        )
    lay_out(figure, height=max(64 + 34 * depth, 160))
    figure.update_layout(coloraxis=_axis(), margin={"l": 16, "r": 8, "t": 30, "b": 10})
    figure.update_annotations(font={"size": 12, "color": FAINT})
    figure.update_xaxes(visible=False)
    words = [level_word(view.tree, i) for i in range(depth)]
    figure.update_yaxes(autorange="reversed", showgrid=False, tickvals=list(range(depth)))
    figure.update_yaxes(ticktext=words, col=1)
    return figure


def loads_figure(view: View, history: History) -> go.Figure:
    """Load of the nodes of every level over time, and beneath the busiest node's excess."""
    moments = thinned(len(history.step_S), _MOST_MOMENTS)
    steps = history.step_S[moments]
    depth = view.tree.num_levels
    figure = make_subplots(
        rows=2,
        cols=depth,
        shared_xaxes=True,
        row_heights=[0.74, 0.26],
        vertical_spacing=0.05,
        horizontal_spacing=_room_for_names(view),
        subplot_titles=[label(_title(view, level)) for level in range(depth)],
    )
    for level in range(depth):
        cut = list(view.tree.cut(level))
        ratio_SP = history.load_SN[:, cut] / view.even_N[cut]
        names, picture = _rows(view, level, ratio_SP[moments])
        figure.add_heatmap(
            x=steps,
            y=[label(name) for name in names],
            z=octaves(picture).astype(np.float32).T,
            coloraxis="coloraxis",
            hovertemplate="%{y}, step %{x}<extra></extra>",
            row=1,
            col=level + 1,
        )
        named = len(cut) <= _NAMED_ROWS
        figure.update_yaxes(
            type="category",  # so that a row without room for its name has it in the hover text
            tickvals=[label(name) for name in names] if named else [],
            ticktext=[label(_short(name)) for name in names] if named else [],
            autorange="reversed",
            showgrid=False,
            row=1,
            col=level + 1,
        )
        figure.add_scatter(
            x=steps,
            y=ratio_SP[moments].max(1) - 1,
            mode="lines",
            line={"color": _colour(level), "width": 2},
            hovertemplate="step %{x}: %{y:.2f}<extra></extra>",
            showlegend=False,
            row=2,
            col=level + 1,
        )
    lay_out(figure, height=470)
    figure.update_layout(coloraxis=_axis(), margin={"t": 30, "r": 8})
    figure.update_annotations(font={"size": 13, "color": FAINT})
    figure.update_yaxes(rangemode="tozero", row=2)
    figure.update_yaxes(title_text="max excess", row=2, col=1)
    figure.update_xaxes(title_text="training step", nticks=5, row=2)
    return figure


def settling_figure(view: View, history: History) -> go.Figure:
    """Per level over time: entropy of the gate, choices as at the end, choices that changed."""
    panels = (
        ("entropy of the gate", history.entropy_SL),
        ("choices as at the end", history.saturation_SL),
        ("choices changed since before", history.churn_SL),
    )
    shown = [(title, values) for title, values in panels if np.isfinite(values).any()]
    figure = make_subplots(
        rows=1,
        cols=max(len(shown), 1),
        horizontal_spacing=0.07,
        subplot_titles=[title for title, _ in shown],
    )
    for column, (_, values_SL) in enumerate(shown, start=1):
        for level in range(view.tree.num_levels):
            word = level_word(view.tree, level)
            figure.add_scatter(
                x=history.step_S,
                y=values_SL[:, level],
                name=word,
                legendgroup=word,
                showlegend=column == 1,
                mode="lines+markers",
                line={"color": _colour(level), "dash": _DASHES[level % 4], "width": 2},
                marker={"size": 5},
                hovertemplate=f"{word}, step %{{x}}: %{{y:.1%}}<extra></extra>",
                row=1,
                col=column,
            )
    lay_out(figure, height=330)
    figure.update_layout(margin={"t": 70, "l": 48}, legend={"y": 1.12})
    figure.update_annotations(font={"size": 13, "color": FAINT})
    figure.update_xaxes(title_text="training step", nticks=6)
    figure.update_yaxes(tickformat=".0%", range=[-0.02, 1.03])
    return figure


def _axis() -> dict[str, object]:
    return colour_axis("load, even is 1×")


def _colour(level: int) -> str:
    return COLOURS[1 + level % (len(COLOURS) - 1)]


def _title(view: View, level: int) -> str:
    count = len(view.tree.cut(level))
    crowded = ", by load at the end" if count > _MOST_ROWS else ""
    return counted(view.tree, level, count) + crowded


def _rows(view: View, level: int, ratio_SP: Array) -> tuple[list[str], Array]:
    """Names and values of a picture's rows: each node, or neighbours in the order of load."""
    cut = view.tree.cut(level)
    if len(cut) <= _MOST_ROWS:
        return [view.tree.path_N[node] for node in cut], ratio_SP
    busiest = np.argsort(-ratio_SP[-1], kind="stable")
    starts = np.arange(0, len(cut), ceil(len(cut) / _MOST_ROWS))
    sums = np.add.reduceat(ratio_SP[:, busiest], starts, axis=1)
    sizes = np.diff([*starts, len(cut)])
    return [f"{a + 1} to {a + n}" for a, n in zip(starts, sizes, strict=True)], sums / sizes


def _short(path: str) -> str:
    """The end of a path tells more than its beginning."""
    return path if len(path) <= _LETTERS else f"…{path[1 - _LETTERS :]}"


def _room_for_names(view: View) -> float:
    """Room between panels for the names of nodes, as a share of the width."""
    tree, depth = view.tree, view.tree.num_levels
    cuts = [tree.cut(level) for level in range(1, depth)]
    letters = [len(_short(tree.path_N[n])) for c in cuts if len(c) <= _NAMED_ROWS for n in c]
    room = max(_LETTER_PX * max(letters, default=0) + 16, 40) / _WIDTH_PX
    return min(room, 0.5 / max(depth - 1, 1))


def _left_to_right(view: View) -> Array:
    """The experts as the chart has them from left to right."""
    path_E = [view.tree.node_E[e] for e in range(view.tree.num_experts)]
    parent_N = view.tree.parent_N

    def branch(node: int) -> tuple[int, ...]:
        chain = []
        while node >= 0:
            chain.append(node)
            node = parent_N[node]
        return tuple(reversed(chain))

    return np.array(sorted(range(len(path_E)), key=lambda e: branch(path_E[e])))


def _picture(view: View, ratio_N: Array, order_X: Array) -> Array:
    """A row a level: the ratio of each expert's node there, neighbours together if too many."""
    levels = range(view.tree.num_levels)
    rows = [ratio_N[list(view.tree.cut(i))][view.place_E(i)][order_X] for i in levels]
    starts = np.arange(0, len(order_X), ceil(len(order_X) / _COLUMNS))
    sizes = np.diff([*starts, len(order_X)])
    return np.add.reduceat(np.array(rows), starts, axis=1) / sizes
