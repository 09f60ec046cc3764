"""Settled gates: gains by hand, which runs count, and the caution where it is due."""

import pytest

from hmoe.report.page import html, readme
from hmoe.report.settled import churn_levels, settled_rows, unsettled
from hmoe.tracking import Confirmation, Objective
from tests.report.hand import curve, make_run, make_study

LEVELS = {"level_0": 0.1, "level_1": 0.3, "expert": 0.3}


def churn(factor: float = 1.0, levels: dict[str, float] = LEVELS) -> dict[str, float]:
    return {f"final/val/gate/churn/{level}": factor * x for level, x in levels.items()}


def run(arm: str, *values: float, **changes):
    """A run with a curve of the first objective, a validation every 10 steps."""
    return make_run(arm, values[-1], history={"val/loss": curve(*values)}, **changes)


def declared(margin: float, **changes):
    return {"confirmation": Confirmation(2, {"val/loss": margin}, 0.05, ()), **changes}


def test_the_late_gain_is_that_of_the_last_quarter_of_the_steps() -> None:
    """Steps 0 to 40, so from step 30; steps 0 to 20, so from step 15, halfway between 2 and 1."""
    (row,) = settled_rows(make_study([run("a", 5.0, 3.0, 2.0, 1.5, 1.0)]))
    assert (row.gain.mean, row.late_gain.mean, row.share) == (4.0, 0.5, 0.125)
    (row,) = settled_rows(make_study([run("a", 5.0, 2.0, 1.0)]))
    assert (row.gain.mean, row.late_gain.mean, row.share) == (4.0, 0.5, 0.125)
    (row,) = settled_rows(make_study([run("a", 5.0, 2.0, 1.0), run("a", 5.0, 3.0, 2.0, seed=1)]))
    assert (row.gain.mean, row.gain.sd) == (3.5, pytest.approx(0.5**0.5))


def test_an_objective_that_grows_gains_by_growing() -> None:
    study = make_study(
        [run("a", 0.0, 2.0, 4.0)], objectives=(Objective("best/val/loss", "maximize"),)
    )
    (row,) = settled_rows(study)
    assert (row.gain.mean, row.late_gain.mean) == (4.0, 1.0)


def test_what_grew_worse_has_no_share() -> None:
    (row,) = settled_rows(make_study([run("a", 1.0, 2.0, 3.0)]))
    assert (row.gain.mean, row.late_gain.mean, row.share) == (-2.0, -0.5, None)


def test_a_curve_that_begins_in_the_last_quarter_tells_no_gain() -> None:
    late = make_run("a", 1.0, history={"val/loss": curve(9.0, 2.0)[1:]}, metrics=churn())
    (row,) = settled_rows(make_study([late]))
    assert (row.gain, row.late_gain, row.share) == (None, None, None)
    assert row.churn["expert"].mean == 0.3


def test_churn_is_told_by_level_and_the_last_level_once() -> None:
    tree = [make_run("tree", 1.0, seed=i, metrics=churn(1.0 + i)) for i in (0, 1)]
    flat = make_run("flat", 1.0, metrics=churn(levels={"level_0": 0.5, "expert": 0.5}))
    study = make_study([*tree, flat, make_run("dense", 1.0), make_run("late", state="running")])
    rows = {row.arm: row for row in settled_rows(study)}
    assert list(rows) == ["tree", "flat", "dense"], "of a run that is not complete nothing is known"
    means = {level: found.mean for level, found in rows["tree"].churn.items()}
    assert means == pytest.approx({"level_0": 0.15, "expert": 0.45})
    assert list(rows["flat"].churn) == ["expert"]
    assert rows["dense"].churn == {}
    assert churn_levels(list(rows.values())) == ["level_0", "expert"]


def test_runs_that_confirm_count_before_trials() -> None:
    trial = run("a", 9.0, 5.0, 1.0, metrics=churn())
    confirm = run("a", 3.0, 2.0, 2.0, kind="confirm", metrics=churn(2.0))
    cut = run("a", 3.0, 2.0, 0.0, kind="confirm", state="failed", seed=1)
    (row,) = settled_rows(make_study([trial, confirm, cut]))
    assert (row.num_runs, row.confirmed, row.late_gain.mean) == (1, True, 0.0)
    assert row.churn["level_0"].mean == 0.2
    (row,) = settled_rows(make_study([trial, cut]))
    assert (row.num_runs, row.confirmed, row.late_gain.mean) == (1, False, 2.0)


def test_an_arm_that_improves_by_more_than_the_margin_gets_a_caution() -> None:
    runs = [run("slow", 5.0, 2.0, 1.0), run("done", 5.0, 1.0, 0.8)]  # late gains 0.5 and 0.1
    assert unsettled(make_study(runs, **declared(0.6))) == ""
    assert unsettled(make_study(runs, **declared(0.5))) == "", "the margin itself does not matter"
    assert unsettled(make_study(runs, **declared(0.2))) == (
        "slow (0.5000) was stopped while it still improved by more than the margin of 0.2 in "
        "val/loss over the last quarter of training; a longer training may turn the verdict."
    )
    both = unsettled(make_study(runs, **declared(0.05)))
    assert both.startswith("slow (0.5000), done (0.1000) were stopped while they still improved")
    assert unsettled(make_study(runs)) == "", "without a margin nothing says what matters"


def test_the_caution_stands_on_the_page_and_in_the_readme() -> None:
    runs = [run("slow", 5.0, 2.0, 1.0, metrics=churn()), run("done", 5.0, 1.0, 1.0)]
    page, brief = (write(make_study(runs, **declared(0.2))) for write in (html, readme))
    assert "Have the gates settled?" in page
    assert '<p class="off">slow (0.5000) was stopped' in page
    assert "churn, level 0" in page
    assert "\n\n**Not settled:** slow (0.5000) was stopped while it" in brief
    assert "\n\n\n" not in brief
    page, brief = (write(make_study(runs, **declared(0.6))) for write in (html, readme))
    assert "Have the gates settled?" in page
    assert "was stopped" not in page + brief
    assert "declares no margin" in html(make_study(runs))


def test_runs_of_before_there_was_churn_are_reported_as_they_were() -> None:
    study = make_study([make_run("a", 1.0), make_run("b", 2.0)])
    assert settled_rows(study) == []
    assert "Have the gates settled?" not in html(study)
