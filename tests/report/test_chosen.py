"""Chosen by little: leads by hand, whose they are, and where there is nothing to warn of."""

import pytest

from hmoe.report.chosen import narrowly_chosen
from hmoe.report.page import html, readme
from hmoe.tracking import Confirmation, Objective
from tests.report.hand import make_run, make_study

LR = "optim.lr"


def trial(arm, quality, lr, **changes):
    return make_run(
        arm, quality, seed=round(1e4 * lr), params={LR: str(lr)}, swept=(LR,), **changes
    )


def confirming(arm, lr):
    told = {"params": {LR: str(lr)}, "metrics": {"final/test/loss": 1.0}}
    return [make_run(arm, 1.0, kind="confirm", seed=seed, **told) for seed in (8, 9)]


def study(*trials, margin=0.02, confirmed=("flat", "tree"), lr=0.002, **changes):
    runs = [*trials, *(run for arm in confirmed for run in confirming(arm, lr))]
    confirmation = Confirmation(2, {"val/loss": margin}, 0.05, ())
    return make_study(runs, confirmation=confirmation, **changes)


TRIALS = (
    *(trial("flat", loss, lr) for loss, lr in ((0.5, 0.001), (0.45, 0.002), (0.7, 0.003))),
    *(trial("tree", loss, lr) for loss, lr in ((0.5, 0.001), (0.485, 0.002), (0.7, 0.003))),
)


def test_an_arm_whose_next_best_trial_is_within_the_margin_is_named_with_its_lead():
    told = narrowly_chosen(study(*TRIALS))
    assert told.startswith("tree (0.01500): the best trial leads the next best by less than the ")
    assert "margin of 0.02 in val/loss" in told
    assert narrowly_chosen(study(*TRIALS, margin=0.06)).startswith(
        "flat (0.05000), tree (0.01500): "
    )
    assert narrowly_chosen(study(*TRIALS, margin=0.01)) == ""


def test_of_an_objective_that_grows_the_largest_is_the_best():
    grows = (Objective("val/loss", "maximize"),)
    told = narrowly_chosen(study(*TRIALS, objectives=grows, margin=0.3, lr=0.003))
    assert told.startswith("flat (0.2000), ")


def test_a_better_trial_that_was_not_confirmed_is_no_rival():
    """It lies beyond the bounds of the search; the next best is 0.2 behind."""
    assert narrowly_chosen(study(*TRIALS, lr=0.001)) == ""
    assert narrowly_chosen(study(*TRIALS, lr=0.001, margin=0.3)).startswith(
        "flat (0.2000), tree (0.2"
    )


@pytest.mark.parametrize(
    "changes",
    [{"confirmed": ("flat",)}, {"confirmed": ()}, {"objectives": ()}],
    ids=["another arm is confirmed", "none is", "no objective"],
)
def test_without_a_confirmed_choice_there_is_nothing_to_warn_of(changes):
    assert narrowly_chosen(study(*TRIALS, **changes)) == ""


def test_one_trial_an_arm_and_equal_settings_are_no_choice():
    assert narrowly_chosen(study(*TRIALS[::3], lr=0.001)) == ""
    alike = [trial("tree", loss, 0.001, name=f"tree/{loss}") for loss in (0.5, 0.501)]
    assert narrowly_chosen(study(*alike, confirmed=("tree",), lr=0.001)) == ""
    two = study(*alike, trial("tree", 0.51, 0.002), confirmed=("tree",), lr=0.001)
    assert narrowly_chosen(two).startswith("tree (0.01000): ")


def test_page_and_readme_tell_it():
    told = study(*TRIALS)
    assert "**Chosen by little:** tree (0.01500)" in readme(told)
    assert "<strong>Chosen by little:</strong> tree (0.01500)" in html(told)
    assert "Chosen by little" not in readme(study(*TRIALS, margin=0.01))
