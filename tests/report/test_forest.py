"""The forest plot and the figures for print."""

import re
import xml.etree.ElementTree as ET

from hmoe.report.figures import pareto_figure
from hmoe.report.forest import forest_figure
from hmoe.report.page import html
from hmoe.report.paper import write_paper
from hmoe.report.style import look_of
from tests.report.hand import make_run
from tests.report.test_verdicts import FLAT, confirming, study_of

TREE = confirming("tree", 1.0, 1.4, 2.1, loads=[0.3, 0.3, 0.36])


def validated(runs, quality, balance):
    """The runs with values on the validation set, too."""
    return [
        make_run(
            run.arm, q, b, kind="confirm", seed=run.seed, name=run.name, metrics=dict(run.metrics)
        )
        for run, q, b in zip(runs, quality, balance, strict=True)
    ]


def test_every_seed_is_a_dot_and_the_interval_surrounds_the_mean():
    study = study_of(*FLAT, *TREE)
    dots, inner, mean, *_ = forest_figure(study).data
    assert [round(x, 9) for x in dots.x] == [-1.0, -1.1, -0.9]
    assert list(dots.text) == ["seed 100", "seed 101", "seed 102"]
    assert round(mean.x[0], 9) == -1
    # 4.3027 x 0.1 / sqrt(3)
    assert [round(mean.error_x[side][0], 3) for side in ("array", "arrayminus")] == [0.248] * 2
    # The interval of coverage 0.9 ends at 2.9200 x 0.1 / sqrt(3), and is the thicker.
    assert [round(inner.error_x[side][0], 4) for side in ("array", "arrayminus")] == [0.1686] * 2
    assert inner.error_x.thickness > 2 * mean.error_x.thickness
    assert mean.marker.color == look_of(study, "tree").colour


def test_the_margin_is_a_band_in_every_panel():
    figure = forest_figure(study_of(*FLAT, *TREE))
    bands = [(s.x0, s.x1, s.xref) for s in figure.layout.shapes if s.type == "rect"]
    assert bands == [(-0.1, 0.1, "x"), (-0.05, 0.05, "x2")]
    assert figure.layout.xaxis.title.text == "test/loss: difference to flat (left is better)"
    assert list(figure.layout.yaxis.ticktext) == ["<b>tree</b><br>better"]


def test_the_page_says_what_the_two_bars_are():
    text = html(study_of(*FLAT, *TREE))
    assert "95 % interval (Student's t) and, thicker, its 90 % interval" in text


def test_print_draws_both_intervals(tmp_path):
    flat = validated(FLAT, [2.0, 3.0, 4.0], [0.5, 0.5, 0.8])
    forest, _ = write_paper(study_of(*flat, *TREE), tmp_path)
    widths = re.findall(r"stroke-width: ([\d.]+)", forest.read_text())
    assert "4" in widths


def test_without_pairs_there_is_no_forest():
    assert forest_figure(study_of()) is None
    assert forest_figure(study_of(*FLAT)) is None


def test_confirmed_arms_are_crosses_over_faint_trials():
    flat = validated(FLAT, [2.0, 3.0, 4.0], [0.5, 0.5, 0.8])
    study = study_of(*flat, *TREE)
    figure = pareto_figure(study)
    (cross,) = [trace for trace in figure.data if trace.error_x.array is not None]
    # Quality 2, 3, 4: mean 3, sd 1. Balance .5, .5, .8: mean .6, sd sqrt(.06 / 2) = .1732.
    assert (cross.name, cross.y[0], cross.error_y.array[0]) == ("flat", 3, 1)
    assert (round(cross.x[0], 9), round(cross.error_x.array[0], 4)) == (0.6, 0.1732)
    trials = [t for t in figure.data if t.mode == "markers" and t.error_x.array is None]
    assert all(max(t.marker.opacity) < 0.5 for t in trials)


def test_figures_for_print_are_svg_with_text(tmp_path):
    flat = validated(FLAT, [2.0, 3.0, 4.0], [0.5, 0.5, 0.8])
    dollar = confirming("$x", 1.0, 1.4, 2.2)
    study = study_of(*flat, *TREE, *dollar)
    written = write_paper(study, tmp_path / "paper")
    assert [path.name for path in written] == ["forest.svg", "pareto.svg"]
    texts = ["".join(ET.parse(path).getroot().itertext()) for path in written]
    assert "tree" in texts[0]
    assert "better" in texts[0]
    assert "$x" in texts[0]
    assert "val/load/cv/expert (lower is better)" in texts[1]
    again = write_paper(study, tmp_path / "again")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in written]


def test_without_results_there_is_nothing_to_print(tmp_path):
    assert write_paper(study_of(objectives=()), tmp_path / "paper") == []
    assert not (tmp_path / "paper").exists()
