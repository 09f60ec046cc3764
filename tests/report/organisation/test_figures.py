"""What figures show is what the record says."""

from dataclasses import replace

import numpy as np
import pytest

from hmoe.report.organisation import views
from hmoe.report.organisation.bars import (
    decomposition_figure,
    information_figure,
    masking_figure,
    policies_figure,
    together_figure,
)
from hmoe.report.organisation.chart import WIDEST_LINE, chart_figure
from hmoe.report.organisation.flow import rings_figure
from hmoe.report.organisation.matrix import matrix_figure, matrix_of
from hmoe.report.organisation.moments import (
    loads_figure,
    panels_figure,
    settling_figure,
    thinned,
)
from hmoe.report.organisation.paint import OCTAVES, diverging, octaves
from hmoe.report.style import INK
from tests.report.organisation.records import make_record


@pytest.fixture(scope="module")
def view(named):
    return views(named[0])[0]


@pytest.fixture(scope="module")
def half_idle():
    """A tree of two departments, of which the second gets a row in ten and one expert none."""
    view = views(make_record({"a": 2, "b": 2}, rows=50))[0]
    load_N = np.array([0.9, 0.1, 0.4, 0.5, 0.1, 0.0])
    return replace(view, layer=replace(view.layer, load_N=load_N))


def test_boxes_are_painted_by_load_and_idle_ones_are_dark(half_idle) -> None:
    figure = chart_figure(half_idle)
    root, *boxes = figure.layout.shapes
    assert root.fillcolor == "white"
    ratios = (1.8, 0.2, 1.6, 2.0, 0.4, 0.0)
    assert [box.fillcolor for box in boxes] == [diverging(x) for x in ratios]
    assert boxes[-1].fillcolor == INK
    (names,) = (trace for trace in figure.data if trace.mode == "text")
    assert names.text[1] == "<b>a</b><br>1.8×"
    assert names.text[-1] == "<b>1</b><br>idle"
    assert names.textfont.color[-1] == "#ffffff"


def test_lines_are_as_wide_as_the_traffic(half_idle) -> None:
    widths = {}
    for trace in chart_figure(half_idle).data:
        if trace.mode == "lines":
            ends = [(x, y) for x, y in zip(trace.x[1::3], trace.y[1::3], strict=True)]
            widths |= dict.fromkeys(ends, trace.line.width)
    to_a, to_b = (w for (_, y), w in sorted(widths.items()) if y > -1)
    assert to_a == pytest.approx(0.9 * WIDEST_LINE, abs=0.5)
    assert to_b == pytest.approx(0.1 * WIDEST_LINE, abs=0.5)
    assert len(widths) == 6


def test_a_strip_marks_every_idle_expert_within_its_band(huge) -> None:
    view = views(huge)[0]
    strips = [trace for trace in chart_figure(view).data if trace.type == "heatmap"]
    assert [strip.z.shape for strip in strips] == [(1, 256), (16, 256)]
    loads = view.layer.load_N[list(view.tree.node_E)]
    assert (strips[1].z == -OCTAVES).sum() == (loads == 0).sum() > 0
    for level, strip in enumerate(strips, start=1):
        ends = np.array([strip.y0, strip.y0 + strip.dy * (len(strip.z) - 1)])
        assert (np.abs(ends + 1 + level) < 0.5).all()
    last = list(view.tree.path_N)[-1]
    assert strips[1].text[15][255].startswith(f"{last} ")


def test_rings_hold_what_is_inside_them(view) -> None:
    (rings,) = rings_figure(view).data
    value = dict(zip(rings.ids, rings.values, strict=True))
    inside = dict.fromkeys(rings.ids, 0.0)
    for parent, own in zip(rings.parents, rings.values, strict=True):
        if parent:
            inside[parent] += own
    assert all(inside[key] in (0, value[key]) for key in value)
    top = sum(v for p, v in zip(rings.parents, rings.values, strict=True) if not p)
    assert top == pytest.approx(1e6, rel=1e-4)


def test_loads_over_time_end_with_the_load_and_the_violation_of_the_cut(view) -> None:
    history = view.layer.history
    data = loads_figure(view, history).data
    for level in range(3):
        picture, excess = data[2 * level : 2 * level + 2]
        ratio_P = view.ratio_N[list(view.tree.cut(level))]
        assert picture.z[:, -1] == pytest.approx(octaves(ratio_P), abs=1e-5)
        assert excess.y[-1] == pytest.approx(view.layer.load["max_violation"][level])


def test_rows_without_room_for_their_names_have_them_in_the_hover_text() -> None:
    view = views(make_record({f"unit{i}": 1 for i in range(30)}, rows=300))[0]
    figure = loads_figure(view, view.layer.history)
    assert figure.layout.yaxis.tickvals == ()
    assert figure.data[0].y == tuple(f"unit{i}" for i in range(30))
    assert figure.layout.yaxis.type == "category"
    assert "%{y}" in figure.data[0].hovertemplate


def test_the_picture_of_crowded_levels_is_bounded(huge) -> None:
    view = views(huge)[0]
    data = loads_figure(view, view.layer.history).data
    assert max(trace.z.shape[0] for trace in data if trace.type == "heatmap") <= 48
    assert all(trace.z.shape == (3, 64) for trace in panels_figure(view, view.layer.history).data)


def test_panels_have_experts_in_the_order_of_the_chart() -> None:
    view = views(make_record({"a": 2, "b": 1, "c": 2}, rows=200))[0]
    last = panels_figure(view, view.layer.history).data[-1].z
    # Nodes a b c, then the experts of a and of c.
    for row, nodes in enumerate(([0, 0, 1, 2, 2], [3, 4, 1, 5, 6])):
        assert last[row] == pytest.approx(octaves(view.ratio_N[nodes]), abs=1e-5)


def test_curves_are_those_of_the_levels(view) -> None:
    history = view.layer.history
    data = settling_figure(view, history).data
    curves = [history.entropy_SL, history.saturation_SL, history.churn_SL]
    for i, trace in enumerate(data):
        assert np.array_equal(trace.y, curves[i // 3][:, i % 3], equal_nan=True)
    unknown = replace(history, entropy_SL=np.full_like(history.entropy_SL, np.nan))
    assert len(settling_figure(view, unknown).data) == 6


def test_moments_are_thinned_to_the_first_and_the_last() -> None:
    assert thinned(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert thinned(101, 3).tolist() == [0, 50, 100]


def test_bars_of_a_decomposition_add_up_to_their_title(view) -> None:
    figure = decomposition_figure(view)
    for key, bars, title in zip(
        ("kl", "cv2", "violation"), figure.data, figure.layout.annotations, strict=True
    ):
        assert bars.y.tolist() == view.layer.decomposition[key].tolist()
        assert title.text.endswith(f": {bars.y.sum():.3f}")
    squared = view.layer.load["cv"][-1] ** 2
    assert figure.data[1].y.sum() == pytest.approx(squared)


def test_information_stands_beside_chance_and_clusters(view) -> None:
    known = view.best_known
    told, null, p, ami, control = information_figure(view, known).data
    assert told.y.tolist() == known.information_L.tolist()
    assert null.y.tolist() == known.null_L.tolist()
    assert p.text == tuple(f"p = {x:.3f}" for x in known.p_L)
    assert (ami.y.tolist(), control.y.tolist()) == (
        known.ami_L.tolist(),
        known.clusters_ami_L.tolist(),
    )


def test_those_missed_most_come_first_by_their_names(view) -> None:
    figure = masking_figure(view)
    names = figure.layout.xaxis.ticktext
    rise = [view.layer.masked_N[view.tree.path_N.index(name)] for name in names]
    assert rise == sorted(rise, reverse=True)
    at = {x: y for trace in figure.data for x, y in zip(trace.x, trace.y, strict=True)}
    assert [at[i] for i in range(len(rise))] == rise


def test_policies_without_a_recall_have_their_loss(view) -> None:
    recall, loss = policies_figure(view).data
    assert dict(zip(recall.y, recall.x, strict=True)) == view.layer.recall | {"exact": None}
    assert dict(zip(loss.y, loss.x, strict=True)) == dict(view.layer.policy_loss)


def test_the_line_among_policies_is_the_loss_on_their_tokens(view) -> None:
    record = replace(view.inspection, loss=2.0, tried_loss=1.26)
    (line,) = policies_figure(replace(view, inspection=record)).layout.shapes
    assert (line.x0, line.x1) == (1.26, 1.26)


def test_nodes_that_serve_together_leave_out_themselves(view) -> None:
    figure = together_figure(view)
    table = figure.data[0].z
    assert np.isnan(np.diag(table)).all()
    paths = [view.tree.path_N[node] for node in view.tree.cut(2)]
    a, b = (paths.index(name) for name in figure.layout.xaxis.ticktext[:2])
    assert table[0, 1] == pytest.approx(view.layer.coactivation["level_2"][a, b])
    alone = replace(view, layer=replace(view.layer, coactivation={"level_2": np.eye(13)}))
    assert together_figure(alone) is None


def test_the_matrix_is_drawn_for_the_level_that_tells_most(huge, view) -> None:
    crowded = views(huge)[0]
    titles = [a.text for a in matrix_figure(crowded, crowded.best_known).layout.annotations]
    assert titles == [
        "departments; permuted labels would show as much",
        "48 of 256 teams, those that tell most",
    ]
    figure = matrix_figure(view, view.best_known)
    matrix = matrix_of(view, view.best_known, 0)
    assert figure.data[0].z == pytest.approx(octaves(matrix.ratio_CP), abs=1e-5)
    assert figure.layout.xaxis.ticktext == matrix.nodes
