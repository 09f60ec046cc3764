"""The answer is computed, labelled, and claims nothing."""

import re

import pytest

from hmoe.report import answer, means
from hmoe.report.page import readme
from hmoe.report.words import metric_words
from hmoe.tracking import Contract, Objective
from tests.report.hand import BALANCE, make_run, make_study


def test_the_answer_by_hand():
    runs = [
        make_run("dense", 3.0, seed=0),
        make_run("dense", 3.2, seed=1),
        make_run("flat", 2.5, 0.4, seed=0),
        make_run("flat", 2.9, 0.6, seed=1),
        make_run("tree", 2.0, 0.8, seed=0),
        make_run("tree", 2.2, 1.0, seed=1),
        make_run("tree", seed=2, state="failed"),
    ]
    # dense: mean 3.1, sd sqrt(2 x 0.1^2) = 0.1414; flat: 2.7, 0.2828; tree: 2.1, 0.1414
    assert str(answer(make_study(runs))).splitlines() == [
        "Exploratory: arms from the best mean to the worst, a lead and not a finding until "
        "it is confirmed on fresh seeds, for this rests on 2 seeds per arm:",
        "",
        "- tree, loss (lower is better): 2.100 ± 0.141 (best 2, n = 2)",
        "- flat, loss (lower is better): 2.700 ± 0.283 (best 2.500, n = 2)",
        "- dense, loss (lower is better): 3.100 ± 0.141 (best 3, n = 2)",
        "- flat, spread of expert load (CV) (lower is better): 0.5000 ± 0.1414",
        "- tree, spread of expert load (CV) (lower is better): 0.9000 ± 0.1414",
    ]


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("val/load/cv/expert", "spread of expert load (CV)"),
        ("test/load/cv/level_0", "spread of level 0 load (CV)"),
        ("final/val/load/max_violation/expert", "largest excess of expert load"),
        ("test/bits_per_byte", "bits per byte"),
        ("val/gate/churn/expert", "gate churn expert"),
    ],
)
def test_metrics_in_words(metric, words):
    assert metric_words(metric) == words


def test_arms_that_are_not_comparable_say_so_first():
    runs = [make_run("flat", 2.0), make_run("tree", 1.0, cost={"active_params": 1100.0})]
    study = make_study(runs, contract=Contract("active_params", "flat", 0.02))
    told = (
        "active_params differs by more than 2.00\u202f% from the reference in tree (+10.00\u202f%)."
    )
    assert str(answer(study)).startswith(f"Not comparable: {told}\n\nExploratory")
    assert f"**Not comparable:** {told}\n" in readme(study)
    commits = [
        make_run("a", 1.0, seed=i, tags={"mlflow.source.git.commit": x * 40})
        for i, x in enumerate("ce")
    ]
    assert str(answer(make_study(commits))).startswith(
        "Not made alike: runs differ in git commits: cccccccccccc; eeeeeeeeeeee.\n\n"
    )


def test_means_are_of_trials_until_runs_confirm_and_then_of_those_alone():
    runs = [make_run("flat", 2.0, 0.4), make_run("flat", 4.0, 0.6, seed=1), make_run("dense", 3.0)]
    assert means(make_study(runs)) == {
        "val/loss/flat": 3.0,
        "val/loss/dense": 3.0,
        "val/load/cv/expert/flat": 0.5,
    }
    sure = make_run("flat", kind="confirm", seed=9, metrics={"final/test/loss": 2.25})
    assert means(make_study([*runs, sure])) == {"test/loss/flat": 2.25}


def test_the_order_follows_the_direction():
    runs = [make_run("low", 0.5), make_run("high", 0.9)]
    text = str(answer(make_study(runs, objectives=(Objective("val/loss", "maximize"), BALANCE))))
    assert "- high, loss (higher is better): 0.9000 (best 0.9000, n = 1)\n- low" in text
    assert "load" not in text  # neither arm has a balance
    assert "on 1 seed per arm" in text


def test_unequal_numbers_of_seeds_are_said():
    runs = [make_run("a", 1.0), make_run("b", 1.0, seed=0), make_run("b", 2.0, seed=1)]
    assert "on 1 to 2 seeds per arm" in str(answer(make_study(runs)))


def test_settings_that_vary_between_the_trials_are_said():
    runs = [make_run("a", 1.0, seed=i, swept=("lr",), params={"lr": str(i)}) for i in range(2)]
    assert "2 seeds per arm, between which lr varied too:" in str(answer(make_study(runs)))


def test_without_results_there_is_no_answer():
    text = str(answer(make_study([make_run("a", state="failed")])))
    assert text == "Exploratory: no answer yet, for none of 1 trial is complete with a result."
    assert "none of 0 trials" in str(answer(make_study([])))
    assert "no answer yet" in str(answer(make_study([make_run("a", 1.0)], objectives=())))


def test_significance_is_never_claimed():
    runs = [make_run("a", x, x, seed=x) for x in range(9)]
    assert not re.search(r"signific|p\s*[<=]|proves|better than", str(answer(make_study(runs))))
