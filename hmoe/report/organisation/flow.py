"""Where rows go: down the tree as rings, and from the values of a label to units as streams.

Letters: C values of a label, P nodes of a cut, A and B parts of two neighbouring stages.
"""

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from hmoe.metrics import Knowledge
from hmoe.report.numbers import percent
from hmoe.report.organisation.chart import node_hover
from hmoe.report.organisation.paint import colour_axis, octaves
from hmoe.report.organisation.view import Array, View, level_word
from hmoe.report.style import COLOURS, FAINT, label, lay_out, tint

MOST_PARTS = 8  # of a stage
_MOST_RING = 320  # nodes of the outermost ring
_STAGES = 3  # levels of units, after the label


def rings_figure(view: View) -> go.Figure:
    """Each node's share of the rows as an arc inside its parent's; levels with few enough nodes."""
    tree = view.tree
    sizes = [s.stop for s in tree.level_slices]
    num_shown = max((n for n in sizes if n <= _MOST_RING), default=sizes[0])
    # plotly drops units that are smaller than what is inside them, by however little.
    value_N = np.round(view.layer.load_N[:num_shown] * 1e6)
    for node in reversed(range(num_shown)):
        inside = [c for c in range(node + 1, num_shown) if tree.parent_N[c] == node]
        if inside:
            value_N[node] = value_N[inside].sum()
    nodes = [node for node in range(num_shown) if value_N[node] > 0]
    figure = go.Figure(
        go.Sunburst(
            ids=[str(node) for node in nodes],
            parents=[str(p) if (p := tree.parent_N[node]) >= 0 else "" for node in nodes],
            labels=[label(tree.path_N[node].split(".")[-1]) for node in nodes],
            values=value_N[nodes],
            branchvalues="total",
            sort=False,
            marker={"colors": octaves(view.ratio_N[nodes]), "coloraxis": "coloraxis"},
            hovertext=[node_hover(view, node) for node in nodes],
            hovertemplate="%{hovertext}<extra></extra>",
            insidetextorientation="horizontal",
        )
    )
    lay_out(figure, height=440)
    # Names that would have to be smaller than this are left out; pointing tells them.
    figure.update_layout(
        coloraxis=colour_axis("load, even is 1×"),
        uniformtext={"minsize": 11, "mode": "hide"},
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
    )
    return figure


@dataclass(frozen=True)
class Stage:
    """Parts of one stage, the largest first, the smallest together as the last if too many.

    Attributes:
        title: what the parts are.
        names: of the parts.
        part_of: for each value or node its part.
    """

    title: str
    names: tuple[str, ...]
    part_of: Array


def stage(title: str, names: tuple[str, ...], sizes: Array) -> Stage:
    """Group what has the sizes given into at most `MOST_PARTS` parts."""
    largest = np.argsort(-sizes, kind="stable")
    own = largest if len(names) <= MOST_PARTS else largest[: MOST_PARTS - 1]
    part_of = np.full(len(names), len(own))
    part_of[own] = np.arange(len(own))
    shown = [names[i] for i in own]
    if len(own) < len(names):
        shown.append(f"others ({len(names) - len(own)})")
    return Stage(title, tuple(shown), part_of)


def stages(view: View, knowledge: Knowledge) -> tuple[list[Stage], list[Array]]:
    """The stages from label to units, and the rows between each two: (A, B)."""
    tree, levels = view.tree, range(min(view.tree.num_levels, _STAGES))
    counts_C = knowledge.counts_CE.sum(1)
    found = [stage(knowledge.label, knowledge.values, counts_C)]
    for level in levels:
        names = tuple(tree.path_N[node] for node in tree.cut(level))
        found.append(stage(level_word(tree, level), names, view.counts_CP(knowledge, level).sum(0)))
    # For every value and expert, the part of each stage that its rows pass.
    values, experts = np.indices(knowledge.counts_CE.shape)
    passed = [found[0].part_of[values]]
    passed += [found[1 + i].part_of[view.place_E(i)][experts] for i in levels]
    flows = []
    for a, b, part_a, part_b in zip(found, found[1:], passed, passed[1:], strict=False):
        flow = np.zeros((len(a.names), len(b.names)))
        np.add.at(flow, (part_a, part_b), knowledge.counts_CE)
        flows.append(flow)
    return found, flows


def streams_figure(view: View, knowledge: Knowledge) -> go.Figure:
    """Rows from the values of a label to departments, teams and experts."""
    found, flows = stages(view, knowledge)
    total = max(float(knowledge.counts_CE.sum()), 1.0)
    first = np.cumsum([0, *(len(s.names) for s in found)])
    source, target, value, paint, told = [], [], [], [], []
    for i, flow in enumerate(flows):
        for a, b in zip(*np.nonzero(flow), strict=True):
            source.append(int(first[i] + a))
            target.append(int(first[i + 1] + b))
            value.append(float(flow[a, b]))
            paint.append(_part_colour(found[i], int(a)))
            names = f"{label(found[i].names[a])} to {label(found[i + 1].names[b])}"
            told.append(f"{names}: {percent(flow[a, b] / total)} of rows")
    figure = go.Figure(
        go.Sankey(
            arrangement="snap",
            node={
                "label": [label(_short(name)) for s in found for name in s.names],
                "color": [_part_colour(s, i) for s in found for i in range(len(s.names))],
                "customdata": [label(name) for s in found for name in s.names],
                "hovertemplate": "%{customdata}: %{value} rows<extra></extra>",
                "pad": 14,
                "thickness": 14,
                "line": {"width": 0},
            },
            link={
                "source": source,
                "target": target,
                "value": value,
                "color": [tint(c) for c in paint],
                "customdata": told,
                "hovertemplate": "%{customdata}<extra></extra>",
            },
        )
    )
    lay_out(figure, height=450)
    # The titles of stages are beneath the buttons of the figure.
    figure.update_layout(margin={"l": 8, "r": 8, "t": 56, "b": 12}, font_size=12)
    for i, each in enumerate(found):
        place = i / (len(found) - 1)
        figure.add_annotation(
            text=label(_short(each.title)),
            x=place,
            y=1.0,
            yshift=20,
            xref="paper",
            yref="paper",
            xanchor="left" if i == 0 else "right" if place == 1 else "center",
            showarrow=False,
            font={"size": 13, "color": FAINT},
        )
    return figure


def _part_colour(of: Stage, part: int) -> str:
    return FAINT if of.names[part].startswith("others (") else COLOURS[1:][part % 7]


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"
