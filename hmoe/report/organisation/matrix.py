"""Who does what: the rows of each value of a label at each node, beside what chance would give.

Letters: C values of a label, P nodes of a cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hmoe.metrics import Knowledge
from hmoe.report.numbers import number
from hmoe.report.organisation.paint import colour_axis, octaves
from hmoe.report.organisation.view import (
    Array,
    View,
    counted,
    level_word,
    net_L,
    significant_L,
)
from hmoe.report.style import FAINT, label, lay_out

MOST_VALUES, MOST_NODES = 30, 48
_PANELS = 4
_ROW_PX, _TOP_PX, _LETTER_PX, _WIDTH_PX = 19, 36, 6.6, 860
_ALIGNED = 24  # nodes of a level that can be compared by eye over several seeds


@dataclass(frozen=True)
class Matrix:
    """Shares over expected shares, in an order that puts like beside like.

    Attributes:
        values: names of the rows.
        nodes: names of the columns.
        rows, columns: places of the values in the label, of the nodes in the cut.
        ratio_CP: rows of the value at the node, over what independence would give.
        title: of which level it is, what was left out, and whether chance gives as much.
    """

    values: tuple[str, ...]
    nodes: tuple[str, ...]
    rows: Array
    columns: Array
    ratio_CP: Array
    title: str


def ratios(counts_CP: Array) -> Array:
    """Counts over what they would be if value and node were independent; NaN where that is 0."""
    total = counts_CP.sum()
    expected = counts_CP.sum(1, keepdims=True) * counts_CP.sum(0) / max(total, 1)
    return np.divide(counts_CP, expected, out=np.full(counts_CP.shape, np.nan), where=expected > 0)


def similar_order(profiles: Array) -> Array:
    """An order of rows in which similar ones are neighbours: average linkage, leaves turned."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import pdist

    if len(profiles) < 3:
        return np.arange(len(profiles))
    return leaves_list(linkage(pdist(profiles), "average", optimal_ordering=True))


def tell_P(counts_CP: Array) -> Array:
    """What each node adds to the mutual information of value and node, in nats."""
    share_CP = counts_CP / max(counts_CP.sum(), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(share_CP > 0, share_CP * np.log(ratios(counts_CP)), 0.0)
    return parts.sum(0)


def matrix_of(view: View, knowledge: Knowledge, level: int) -> Matrix:
    """The matrix of a label and a level: the commonest values, the nodes that tell most."""
    counts_CP = view.counts_CP(knowledge, level)
    rows = np.argsort(-counts_CP.sum(1), kind="stable")[:MOST_VALUES]
    columns = np.argsort(-tell_P(counts_CP), kind="stable")[:MOST_NODES]
    profile_CP = np.nan_to_num(octaves(ratios(counts_CP)[np.ix_(rows, columns)]))
    rows, columns = rows[similar_order(profile_CP)], columns[similar_order(profile_CP.T)]
    paths = [view.tree.path_N[node] for node in view.tree.cut(level)]
    return Matrix(
        tuple(knowledge.values[i] for i in rows),
        tuple(paths[i] for i in columns),
        rows,
        columns,
        ratios(counts_CP)[np.ix_(rows, columns)],
        _title(view, knowledge, level, len(rows), len(columns)),
    )


def _title(view: View, knowledge: Knowledge, level: int, rows: int, columns: int) -> str:
    whole = len(view.tree.cut(level))
    parts = [level_word(view.tree, level)]
    if columns < whole:
        parts = [f"{columns} of {counted(view.tree, level, whole)}, those that tell most"]
    if rows < len(knowledge.values):
        parts.append(f"{rows} commonest of {number(len(knowledge.values))} values")
    if not significant_L(knowledge)[: level + 1].any():
        # The nodes that tell most always seem to tell something.
        parts.append("permuted labels would show as much")
    return "; ".join(parts)


def matrix_figure(view: View, knowledge: Knowledge) -> go.Figure:
    """One panel a level: which values its nodes work on more or less than chance would have it."""
    levels = drawn_levels(view, knowledge)
    drawn = [matrix_of(view, knowledge, level) for level in levels]
    figure = make_subplots(
        rows=len(levels),
        cols=1,
        row_heights=[max(len(m.values), 5) for m in drawn],
        subplot_titles=[m.title for m in drawn],
        vertical_spacing=_spacing(drawn),
    )
    _finish(figure, drawn)
    return figure


def drawn_levels(view: View, knowledge: Knowledge) -> list[int]:
    """The level that adds most, and the last of which all nodes can be shown."""
    whole = [i for i in range(view.tree.num_levels) if len(view.tree.cut(i)) <= MOST_NODES]
    return sorted({telling_level(knowledge), *whole[-1:]})


def telling_level(knowledge: Knowledge) -> int:
    """The level that adds most to what is known of a label."""
    return int(np.argmax(net_L(knowledge)))


def _finish(figure: go.Figure, drawn: Sequence[Matrix]) -> None:
    """Put the matrices into the panels of a figure, one under the other."""
    for row, matrix in enumerate(drawn, start=1):
        _draw(figure, matrix, row)
    lay_out(figure, height=round(_panels_px(drawn) + _TOP_PX + _below_px(drawn)))
    figure.update_layout(
        coloraxis=colour_axis("share over expected"),
        margin={"t": _TOP_PX, "r": 8, "b": _below_px(drawn)},
    )
    figure.update_annotations(font={"size": 13, "color": FAINT})


def _turned(nodes: Sequence[str]) -> bool:
    """Whether names beneath their columns need more room than there is side by side."""
    return max(map(len, nodes)) * _LETTER_PX > _WIDTH_PX / len(nodes) - 6


def _below_px(drawn: Sequence[Matrix]) -> float:
    """Height of the names of nodes."""
    turned = [len(_short(n)) for m in drawn if _turned(list(map(_short, m.nodes))) for n in m.nodes]
    return 18 + max(turned, default=2) * _LETTER_PX


def _panels_px(drawn: Sequence[Matrix]) -> float:
    """Height of all panels with what is between them."""
    between = (len(drawn) - 1) * (_below_px(drawn) + _TOP_PX)
    return sum(_ROW_PX * max(len(m.values), 5) for m in drawn) + between


def _spacing(drawn: Sequence[Matrix]) -> float:
    """What is between two panels, as a share of all."""
    return (_below_px(drawn) + _TOP_PX) / _panels_px(drawn) if len(drawn) > 1 else 0.0


def _draw(figure: go.Figure, matrix: Matrix, row: int) -> None:
    values, nodes = ([label(_short(n)) for n in names] for names in (matrix.values, matrix.nodes))
    figure.add_heatmap(
        z=octaves(matrix.ratio_CP).astype(np.float32),
        x=list(range(len(nodes))),
        y=list(range(len(values))),
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        customdata=np.round(matrix.ratio_CP, 3).astype(np.float32),
        hovertemplate="%{customdata:.2f}× expected<extra></extra>",
        row=row,
        col=1,
    )
    ticks = {"showgrid": False, "tickfont": {"size": 11}, "row": row, "col": 1}
    figure.update_xaxes(
        tickvals=list(range(len(nodes))),
        ticktext=nodes,
        tickangle=-90 if _turned(nodes) else 0,
        **ticks,
    )
    figure.update_yaxes(tickvals=list(range(len(values))), ticktext=values, **ticks)


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


def aligned(reference_CP: Array, other_CP: Array) -> tuple[Array, float]:
    """For each node of the reference the node of the other run whose label profile is most like it.

    Profiles are the ratios of a node over the values, as `octaves`; a node has one partner only
    (Hungarian method). Returns the partners, and the mean correlation of the pairs, weighted by
    the rows of the reference. A node without a profile correlates with none.
    """
    from scipy.optimize import linear_sum_assignment

    a, b = (_profiles(counts) for counts in (reference_CP, other_CP))
    alike = a.T @ b
    own, partner = linear_sum_assignment(alike, maximize=True)
    rows_P = reference_CP.sum(0)
    return partner, float((rows_P * alike[own, partner]).sum() / max(rows_P.sum(), 1))


def _profiles(counts_CP: Array) -> Array:
    profile_CP = np.nan_to_num(octaves(ratios(counts_CP)))
    profile_CP = profile_CP - profile_CP.mean(0)
    length_P = np.linalg.norm(profile_CP, axis=0)
    return np.divide(profile_CP, length_P, out=np.zeros_like(profile_CP), where=length_P > 0)


def seeds_figure(same: Sequence[View], knowledge: Knowledge) -> go.Figure | None:
    """One level of several runs of one organisation, nodes of a column having like profiles.

    Args:
        same: the same layer of runs that have the same tree, the reference first.
        knowledge: what the reference knows of the label.

    Returns None where no other run knows the label with the same values, or no level is small
    enough to be compared by eye.
    """
    first, *others = same
    small = [i for i in range(first.tree.num_levels) if len(first.tree.cut(i)) <= _ALIGNED]
    known = [(view, each) for view in others for each in view.layer.knowledge]
    kept = [
        (view, each)
        for view, each in known
        if (each.label, each.values) == (knowledge.label, knowledge.values)
    ][: _PANELS - 1]
    if not small or not kept:
        return None
    level = small[-1]
    matrix = matrix_of(first, knowledge, level)
    paths = [first.tree.path_N[node] for node in first.tree.cut(level)]
    reference_CP = first.counts_CP(knowledge, level)
    panels, titles = [matrix], [f"seed {first.inspection.seed}"]
    for view, each in kept:
        counts_CP = view.counts_CP(each, level)
        partner, alike = aligned(reference_CP, counts_CP)
        columns = partner[matrix.columns]
        ratio_CP = ratios(counts_CP)[np.ix_(matrix.rows, columns)]
        nodes = tuple(paths[i] for i in columns)
        panels.append(replace(matrix, nodes=nodes, columns=columns, ratio_CP=ratio_CP))
        titles.append(f"seed {view.inspection.seed}, correlation {alike:.2f}")
    figure = make_subplots(
        rows=len(panels), cols=1, subplot_titles=titles, vertical_spacing=_spacing(panels)
    )
    _finish(figure, panels)
    return figure
