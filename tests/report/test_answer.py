"""The sentence is computed, labelled, and claims nothing."""

import re

from hmoe.report import answer, answer_list, means
from hmoe.tracking import Objective
from tests.report.hand import BALANCE, make_run, make_study


def test_the_sentence_by_hand():
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
    assert answer(make_study(runs)) == (
        "Exploratory: by mean val/loss (lower is better) the order is "
        "tree 2.100 ± 0.141 (best 2, n = 2), flat 2.700 ± 0.283 (best 2.500, n = 2), "
        "dense 3.100 ± 0.141 (best 3, n = 2); "
        "by mean val/load/cv/expert (lower is better) it is "
        "flat 0.5000 ± 0.1414, tree 0.9000 ± 0.1414; "
        "this rests on 2 seeds per arm, so the order is a lead and not a finding until it is "
        "confirmed on fresh seeds."
    )


def test_the_list_has_a_line_for_each_arm():
    runs = [make_run("flat", 2.5, seed=0), make_run("tree", 2.0, seed=0)]
    assert answer_list(make_study(runs)).splitlines() == [
        "**Exploratory**",
        "",
        "- by mean val/loss (lower is better) the order is",
        "    - tree 2 (best 2, n = 1)",
        "    - flat 2.500 (best 2.500, n = 1)",
        "- this rests on 1 seed per arm, so the order is a lead and not a finding until it is "
        "confirmed on fresh seeds",
    ]


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
    text = answer(make_study(runs, objectives=(Objective("val/loss", "maximize"), BALANCE)))
    assert "(higher is better) the order is high 0.9000 (best 0.9000, n = 1), low" in text
    assert "val/load" not in text  # neither arm has a balance
    assert "on 1 seed per arm" in text


def test_unequal_numbers_of_seeds_are_said():
    runs = [make_run("a", 1.0), make_run("b", 1.0, seed=0), make_run("b", 2.0, seed=1)]
    assert "on 1 to 2 seeds per arm" in answer(make_study(runs))


def test_settings_that_vary_between_the_trials_are_said():
    runs = [make_run("a", 1.0, seed=i, swept=("lr",), params={"lr": str(i)}) for i in range(2)]
    assert "2 seeds per arm, between which lr varied too, so" in answer(make_study(runs))


def test_without_results_there_is_no_answer():
    text = answer(make_study([make_run("a", state="failed")]))
    assert text == "Exploratory: no answer yet, for none of 1 trial is complete with a result."
    assert "none of 0 trials" in answer(make_study([]))
    assert "no answer yet" in answer(make_study([make_run("a", 1.0)], objectives=()))


def test_significance_is_never_claimed():
    runs = [make_run("a", x, x, seed=x) for x in range(9)]
    assert not re.search(r"signific|p\s*[<=]|proves|better than", answer(make_study(runs)))
