"""Figures: what is drawn where, one colour per arm, readable colours."""

from hmoe.report.figures import curve_figure, pareto_figure
from hmoe.report.loads import load_figures
from hmoe.report.page import html
from hmoe.report.style import COLOURS, look_of
from hmoe.report.tables import quality_of
from hmoe.tracking import Objective
from tests.report.hand import curve, level, make_run, make_study


def study_of_two():
    loads = {"level_0": level(["a", "<b>"], [0.75, 0.25], [0.5, 0.5])}
    history = {"val/loss": curve(9, 2, 1, 1.5)}
    flat = [
        make_run("flat", 2.0, 0.5, seed=0, level_loads=loads, history=history),
        make_run("flat", 3.0, 0.7, seed=1, history={"val/loss": curve(9, 3, 2, 2.5)}),
        make_run("flat", 1.5, 0.9, seed=2),
    ]
    return make_study([make_run("dense", 4.0, seed=0), make_run("dense", 5.0, seed=1), *flat])


def test_the_front_is_a_stair_through_its_points():
    front = next(t for t in pareto_figure(study_of_two()).data if t.name == "Pareto front")
    assert (list(front.x), list(front.y), front.line.shape) == ([0.5, 0.9], [2.0, 1.5], "hv")


def test_the_dense_control_is_a_line_across_at_its_mean_with_its_spread():
    figure = pareto_figure(study_of_two())
    line = next(t for t in figure.data if t.name and t.name.startswith("dense"))
    assert set(line.y) == {4.5}
    assert figure.layout.annotations[0].text == "dense 4.500 ± 0.707"
    assert tuple(line.x) == tuple(figure.layout.xaxis.range)
    band = figure.data[0]
    assert [round(y, 3) for y in band.y] == [3.793, 3.793, 5.207, 5.207]


def test_points_show_their_command_on_hover():
    points = next(t for t in pareto_figure(study_of_two()).data if t.name == "flat")
    assert (list(points.x), list(points.y)) == ([0.5, 0.7, 0.9], [2.0, 3.0, 1.5])
    assert all("hmoe train arm=flat seed=" in text for text in points.hovertext)


def test_quotation_marks_stay_as_they_are_for_plotly_does_not_decode_them():
    run = make_run("a", 1.0, 1.0, tree='{"x": 2}', command="hmoe train 'tree.spec={\"x\": 2}' <&>")
    (text,) = pareto_figure(make_study([run])).data[0].hovertext
    assert '{"x": 2}' in text
    assert "hmoe train 'tree.spec={\"x\": 2}' &lt;&amp;&gt;" in text


def test_without_results_there_is_no_figure():
    study = make_study([make_run("a", state="failed")])
    assert pareto_figure(study) is None
    assert curve_figure(study, quality_of(study)) is None
    assert load_figures(study) == []


def test_curves_have_a_steps_and_a_seconds_view_of_which_one_shows():
    figure = curve_figure(study_of_two(), quality_of(study_of_two()))
    assert [(t.meta, t.visible) for t in figure.data] == [("steps", True)] * 2 + [
        ("seconds", False)
    ] * 2
    band, mean = figure.data[:2]
    assert list(mean.y) == [9, 2.5, 1.5, 2]
    assert list(band.y) == [9, 3, 2, 2.5, 1.5, 1, 2, 9]
    # The fall from 9 lies in the first 30 % and would flatten the rest.
    assert figure.layout.yaxis.range[1] < 4


def test_the_curve_of_a_best_value_is_that_of_the_metric():
    figure = curve_figure(study_of_two(), Objective("best/val/loss", "minimize"))
    assert figure is not None


def test_an_arm_without_balance_is_a_line_with_a_band_and_a_label_above():
    runs = [make_run("dense", x, seed=i) for i, x in enumerate((1.0, 3.0))]
    study = make_study(
        [*runs, make_run("flat", 2.0, 0.5), make_run("flat", kind="confirm", seed=9)]
    )
    figure = pareto_figure(study)
    band, line = figure.data[:2]
    # Mean 2, standard deviation sqrt(2).
    assert [round(y, 3) for y in band.y] == [0.586] * 2 + [3.414] * 2
    assert set(line.y) == {2.0}
    (told,) = figure.layout.annotations
    assert (told.text, told.y, told.yanchor) == ("dense 2 ± 1.414", 2.0, "bottom")
    assert told.yshift > 0
    text = html(study)
    assert "with a band of one standard deviation either way" in text
    assert "Larger signs with a dark edge and whiskers are confirmed arms" in text
    assert "Crosses" not in text


def test_loads_are_drawn_with_names_and_even_load():
    ((arm, figure),) = load_figures(study_of_two())
    bars, even = figure.data
    assert (arm, list(bars.y)) == ("flat", [0.75, 0.25])
    assert list(figure.layout.xaxis.ticktext) == ["a", "&lt;b&gt;"]
    assert (list(even.x), list(even.y)) == ([-0.5, 0.5, 0.5, 1.5], [0.5] * 4)


def test_an_arm_has_one_colour_everywhere():
    study = study_of_two()
    flat = look_of(study, "flat").colour
    points = next(t for t in pareto_figure(study).data if t.name == "flat")
    mean = curve_figure(study, quality_of(study)).data[1]
    bars = load_figures(study)[0][1].data[0]
    assert {points.marker.color, mean.line.color, bars.marker.color} == {flat}


def test_colours_can_be_read_on_white():
    def luminance(paint):
        channels = [int(paint[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert len(set(COLOURS)) == len(COLOURS)
    assert all(1.05 / (luminance(paint) + 0.05) >= 4.5 for paint in COLOURS)
