"""The organisation chart: load as colour, traffic as the width of lines, names in their boxes."""

from collections.abc import Iterator

import numpy as np
import plotly.graph_objects as go

from hmoe.report.numbers import number, percent
from hmoe.report.organisation.layout import Layout, lay_out_tree, strip_cells
from hmoe.report.organisation.paint import colour_axis, diverging, octaves
from hmoe.report.organisation.view import View, counted
from hmoe.report.style import FAINT, INK, label, lay_out

HALF = 0.23  # of the height of a box, in levels
FILL = 0.9  # of a box's slots
WIDEST_LINE = 14.0  # pixels, for all rows
_LEVEL_PX = 96
_WIDTH_PX = 880  # of the chart itself on a wide screen
_LETTER_PX = 7.4


def chart_figure(view: View) -> go.Figure:
    """The organisation with the load of every node; levels with many nodes are strips."""
    layout = lay_out_tree(view.tree)
    figure = go.Figure()
    _draw_lines(figure, view, layout)
    _draw_boxes(figure, view, layout)
    for level in layout.strips:
        _draw_strip(figure, view, layout, level)
    lay_out(figure, height=_LEVEL_PX * (view.tree.num_levels + 1) + 22)
    levels = range(view.tree.num_levels)
    sizes = [s.stop - s.start for s in view.tree.level_slices]
    figure.update_layout(
        showlegend=False,
        coloraxis=colour_axis("load, even is 1×"),
        margin={"l": 16, "r": 8, "t": 30, "b": 8},
        hovermode="closest",
    )
    figure.update_xaxes(visible=False, range=[0, layout.num_slots])
    figure.update_yaxes(
        range=[-len(levels) - 0.45, 0.35],
        tickvals=[-1 - i for i in levels],
        ticktext=[counted(view.tree, i, n) for i, n in enumerate(sizes)],
        showgrid=False,
        showline=False,
    )
    return figure


def box(layout: Layout, node: int) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of a box, the lower levels' being one unit down each."""
    width = layout.width_N[node] * FILL
    width = min(width, layout.num_slots * 0.2)
    return layout.x_N[node] - width / 2, -HALF, width, 2 * HALF


def lines(
    view: View, layout: Layout
) -> Iterator[tuple[float, list[float | None], list[float | None]]]:
    """Lines from each box to those beneath, by width: (share of rows, x, y), None between them."""
    tree = view.tree
    classes: dict[float, tuple[list[float | None], list[float | None]]] = {}
    for node in range(layout.num_boxes):
        parent = tree.parent_N[node]
        top = -tree.level_N[node]
        x = [layout.num_slots / 2 if parent < 0 else layout.x_N[parent], layout.x_N[node], None]
        traffic = round(WIDEST_LINE * float(view.layer.load_N[node])) / WIDEST_LINE
        xs, ys = classes.setdefault(traffic, ([], []))
        xs += x
        ys += [top - HALF, top - 1 + HALF, None]
    for traffic in sorted(classes):
        yield traffic, *classes[traffic]


def _draw_lines(figure: go.Figure, view: View, layout: Layout) -> None:
    for traffic, x, y in lines(view, layout):
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            line={"width": max(WIDEST_LINE * traffic, 0.75), "color": "#9ca3af"},
            hoverinfo="skip",
        )


def _draw_boxes(figure: go.Figure, view: View, layout: Layout) -> None:
    tree, nodes = view.tree, range(layout.num_boxes)
    middle = layout.num_slots / 2
    root = min(layout.num_slots * 0.12, layout.num_slots * FILL)
    figure.add_shape(
        x0=middle - root / 2,
        x1=middle + root / 2,
        y0=-HALF,
        y1=HALF,
        layer="below",
        fillcolor="white",
        line={"color": FAINT, "width": 1},
    )
    names, xs, ys, colours = ["all rows"], [middle], [0.0], [INK]
    for node in nodes:
        left, bottom, width, height = box(layout, node)
        y = -1.0 - tree.level_N[node]
        ratio = float(view.ratio_N[node])
        figure.add_shape(
            x0=left,
            x1=left + width,
            y0=y + bottom,
            y1=y + bottom + height,
            layer="below",
            fillcolor=diverging(ratio),
            line={"color": FAINT, "width": 1},
        )
        names.append(_in_box(view, node, width * _WIDTH_PX / layout.num_slots))
        xs.append(layout.x_N[node])
        ys.append(y)
        colours.append("#ffffff" if ratio == 0 else INK)
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="text",
        text=names,
        textfont={"size": 12, "color": colours},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=xs[1:],
        y=ys[1:],
        mode="markers",
        # Drawn by the shapes: these carry what is told on pointing, and the scale of colours.
        marker={
            "size": 28,
            "opacity": 0,
            "color": octaves(view.ratio_N[: layout.num_boxes]),
            "coloraxis": "coloraxis",
        },
        hovertext=[node_hover(view, node) for node in nodes],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _draw_strip(figure: go.Figure, view: View, layout: Layout, level: int) -> None:
    cells = strip_cells(view.tree, level)
    half = 0.42 if cells.rows > 1 else 0.2
    dx, dy = layout.num_slots / cells.columns, 2 * half / cells.rows
    grid = cells.grid(octaves(cells.means(view.ratio_N)))
    figure.add_heatmap(
        x0=dx / 2,
        dx=dx,
        y0=-1 - level + half - dy / 2,
        dy=-dy,
        z=grid.astype(np.float32),
        text=_strip_hover(view, level),
        hovertemplate="%{text}<extra></extra>",
        coloraxis="coloraxis",
        xgap=1 if cells.columns <= 128 else 0,
    )


def _strip_hover(view: View, level: int) -> list[list[str]]:
    cells = strip_cells(view.tree, level)
    paths, last = view.tree.path_N, [start - 1 for start in cells.starts[1:]] + [cells.stop - 1]
    texts = []
    for start, end, ratio in zip(cells.starts, last, cells.means(view.ratio_N), strict=True):
        name = label(paths[start]) + (f" to {label(paths[end])}" if end > start else "")
        texts.append(f"{name} {ratio:.2f}×")
    texts += [""] * (cells.rows * cells.columns - len(texts))
    return [texts[row :: cells.rows] for row in range(cells.rows)]


def node_hover(view: View, node: int) -> str:
    """What is told of a node on pointing at it."""
    load, even = view.layer.load_N[node], view.even_N[node]
    text = f"<b>{label(view.tree.path_N[node])}</b><br>{percent(load)} of all rows"
    return f"{text}<br>even share {percent(even)}<br>{number(round(load / even, 2))}× even"


def _in_box(view: View, node: int, width_px: float) -> str:
    """Name and load as far as there is room for letters that can be read."""
    name, ratio = view.tree.path_N[node].split(".")[-1], view.ratio_N[node]
    room = int((width_px - 6) / _LETTER_PX)
    if room < 2 or (room < 4 and len(name) > room):
        return ""
    shown = name if len(name) <= room else name[: room - 1] + "…"
    told = "idle" if ratio == 0 else "<0.1×" if ratio < 0.05 else f"{ratio:.1f}×"
    return f"<b>{label(shown)}</b>" + (f"<br>{label(told)}" if len(told) <= room else "")
