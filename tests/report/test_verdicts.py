"""Pairs of confirmed arms, worked out by hand."""

from dataclasses import replace

import pytest

from hmoe.report import answer
from hmoe.report.forest import forest_figure
from hmoe.report.page import html, readme
from hmoe.report.verdicts import common_reference, confirm_runs, membership, pair_rows
from hmoe.tracking import Confirmation, Contract, Objective
from tests.report.hand import BALANCE, QUALITY, make_run, make_study

MARGINS = {"val/loss": 0.1, "val/load/cv/expert": 0.05}


def confirming(arm, *losses, loads=None, first=100, **changes):
    """Confirming runs of one arm: its test losses, and loads if it has any."""
    runs = []
    for i, loss in enumerate(losses):
        metrics = {"final/test/loss": loss}
        if loads:
            metrics["final/test/load/cv/expert"] = loads[i]
        name = f"{arm}/seed_{first + i}"
        runs.append(
            make_run(arm, kind="confirm", seed=first + i, name=name, metrics=metrics, **changes)
        )
    return runs


def study_of(*runs, seeds=3, arms=("flat", "tree"), margins=MARGINS, declared=(), **changes):
    return make_study(
        [make_run("flat", 9.0, 9.0), make_run("tree", 1.0, 1.0), *runs],
        arms=arms,
        contract=Contract("active_params", "flat", 0.02),
        confirmation=Confirmation(seeds, margins, 0.05, declared),
        **changes,
    )


FLAT = confirming("flat", 2.0, 2.5, 3.0, loads=[0.4, 0.4, 0.4])


def test_differences_are_paired_by_seed_and_taken_from_the_test_set():
    # Runs come in any order; 2.0 - 2.2, 2.5 - 2.9 and so on would be the wrong pairs.
    tree = confirming("tree", 2.01, 2.52, 2.99, loads=[0.4, 0.41, 0.39])
    loss, load = pair_rows(study_of(*reversed(tree), *FLAT))
    assert (loss.arm, loss.reference, loss.metric, loss.margin) == (
        "tree",
        "flat",
        "test/loss",
        0.1,
    )
    assert loss.seeds == (100, 101, 102)
    assert loss.differences == pytest.approx((0.01, 0.02, -0.01))
    assert load.metric == "test/load/cv/expert"
    assert load.differences == pytest.approx((0, 0.01, -0.01))
    assert loss.judgement.verdict == "equivalent"


def test_an_arm_may_be_compared_with_another_than_the_reference():
    deep = confirming("deep", 1.0, 1.4, 2.1)
    tree = confirming("tree", 2.01, 2.52, 2.99)
    study = study_of(*FLAT, *tree, *deep, arms=("flat", "tree", "deep"))
    rows = {row.arm: row for row in pair_rows(study) if row.metric == "test/loss"}
    assert {arm: row.reference for arm, row in rows.items()} == {"tree": "flat", "deep": "flat"}
    assert common_reference(list(rows.values())) == "flat"
    confirmation = replace(study.confirmation, against={"deep": "tree"})
    study = replace(study, confirmation=confirmation)
    rows = {row.arm: row for row in pair_rows(study) if row.metric == "test/loss"}
    assert {arm: row.reference for arm, row in rows.items()} == {"tree": "flat", "deep": "tree"}
    assert rows["deep"].differences == pytest.approx((-1.01, -1.12, -0.89))
    assert common_reference(list(rows.values())) == ""
    assert "- deep, loss: better than tree (" in str(answer(study))
    page = readme(study)
    assert "| deep \u2212 tree | test/loss |" in page
    assert "difference to" not in page
    ticks = forest_figure(study).layout.yaxis.ticktext
    assert ticks == ("<b>tree</b> \u2212 flat<br>equivalent", "<b>deep</b> \u2212 tree<br>better")


def test_the_sentence_by_hand():
    # Differences -1, -1.1, -0.9: mean -1, sd 0.1, half the interval 4.3027 x 0.1 / sqrt(3) = 0.248.
    tree = confirming("tree", 1.0, 1.4, 2.1)
    study = study_of(*confirming("flat", 2.0, 2.5, 3.0), *tree)
    assert str(answer(study)) == (
        "Confirmed on 3 fresh paired seeds:\n\n"
        "- tree, loss: better than flat (\u22121.00 [\u22121.25, \u22120.75], margin 0.1)"
    )


def test_an_undecided_pair_says_what_it_needs():
    study = study_of(*confirming("flat", 2.0, 2.5, 3.0), *confirming("tree", 2.3, 2.4, 3.6))
    (row,) = pair_rows(study)
    needed = row.judgement.more_seeds
    assert needed is not None
    assert f"- tree, loss: undecided against flat, about {needed} more seeds needed (" in str(
        answer(study)
    )
    far = study_of(*confirming("flat", 2.0, 2.5), *confirming("tree", 2.3, 2.2), seeds=2)
    assert "undecided against flat, more than 100 more seeds needed" in str(answer(far))


def test_seeds_added_after_a_look_are_no_clean_confirmation():
    runs = [*confirming("flat", 2.0, 2.5, 3.0), *confirming("tree", 1.0, 1.4, 2.1)]
    assert answer(study_of(*runs, looks=(3,))).headline.startswith(
        "Confirmed on 3 fresh paired seeds:"
    )
    told = "the error rate is no longer the declared 0.05"
    again = str(answer(study_of(*runs, looks=(2, 3))))
    assert again.startswith(f"2 seeds, 3 after a first look: {told}")
    assert "Confirmed" not in again
    thrice = str(answer(study_of(*runs, looks=(1, 2, 3, 3))))
    assert thrice.startswith(f"1 seed, 2 after a first look, 3 after a further look: {told}")
    # Seeds that were added and have not ended yet.
    under_way = str(answer(study_of(*runs, looks=(3,), seeds=5)))
    assert under_way.startswith(
        f"Confirmation under way, on 3 of 5 paired seeds, 3 seeds, 5 after a first look: {told}"
    )


def test_the_page_claims_no_error_rate_after_a_look():
    runs = [*confirming("flat", 2.0, 2.5, 3.0), *confirming("tree", 1.0, 1.4, 2.1)]
    claim = "is wrong with probability at most 0.05"
    assert claim in html(study_of(*runs, looks=(3,)))
    again = html(study_of(*runs, looks=(2, 3)))
    assert claim not in again
    assert "Seeds were added after a look: 2 seeds, 3 after a first look" in again


def test_the_direction_of_the_objective_counts():
    runs = [*confirming("flat", 2.0, 2.5, 3.0), *confirming("tree", 1.0, 1.4, 2.1)]
    study = study_of(*runs, objectives=(Objective("val/loss", "maximize"), BALANCE))
    assert pair_rows(study)[0].judgement.verdict == "worse"


def test_a_dense_control_has_no_pair_in_balance():
    dense = confirming("dense", 2.0, 2.5, 3.1)
    rows = pair_rows(study_of(*FLAT, *dense, arms=("flat", "dense")))
    assert [row.metric for row in rows] == ["test/loss"]


def test_an_arm_that_is_still_to_run_counts_in_the_family():
    tree = confirming("tree", 1.0, 1.4, 2.1)
    flat = confirming("flat", 2.0, 2.5, 3.0)
    alone = pair_rows(study_of(*flat, *tree))
    study = study_of(*flat, *tree, arms=("flat", "tree", "late"), margins={"val/loss": 0.1})
    tree_row, late = pair_rows(study)
    assert tree_row.judgement.difference_p == pytest.approx(2 * alone[0].judgement.difference_p)
    assert (late.seeds, late.judgement.estimate) == ((), None)
    assert answer(study).headline == "Confirmation under way, on 0 to 3 of 3 paired seeds:"
    assert "- late, loss: undecided against flat, fewer than 2 paired seeds so far" in str(
        answer(study)
    )


def test_the_declared_family_is_judged_and_no_other_arm():
    study = study_of(
        *FLAT, *confirming("tree", 1.0, 1.4, 2.1), arms=("flat", "tree", "x"), declared=("tree",)
    )
    assert {row.arm for row in pair_rows(study)} == {"tree"}


def test_seeds_that_were_lost_are_told():
    tree = confirming("tree", 1.0, 1.4, 2.1)
    dead = make_run("tree", kind="confirm", seed=103, state="diverged")
    flat = confirming("flat", 2.0, 2.5, 3.0, 3.3)
    study = study_of(*flat, *tree, dead, seeds=4)
    (row,) = pair_rows(study)
    assert (row.seeds, row.lost, row.planned) == ((100, 101, 102), (103,), 4)
    assert str(answer(study)).endswith(", margin 0.1, 1 seed lost)")
    assert answer(study).head.startswith("Confirmed on 3 fresh")  # all that were planned have ended


def test_without_confirming_runs_the_answer_stays_exploratory():
    assert pair_rows(study_of()) == []
    assert answer(study_of()).head.startswith("Exploratory")
    assert pair_rows(make_study(FLAT)) == []  # nothing was declared


def test_confirming_runs_come_by_arm_and_seed():
    runs = confirm_runs(study_of(*confirming("tree", 1.0, 2.0), *reversed(FLAT)))
    assert [(r.arm, r.seed) for r in runs] == [
        *(("flat", seed) for seed in (100, 101, 102)),
        *(("tree", seed) for seed in (100, 101)),
    ]


def test_membership_of_the_front():
    # tree is better in both on every seed; a third arm is worst in loss and best in load.
    tree = confirming("tree", 1.9, 2.4, 2.9, loads=[0.3] * 3)
    even = confirming("even", 5.0, 5.0, 5.0, loads=[0.1] * 3)
    dense = confirming("dense", 0.0, 0.0, 0.0)
    study = study_of(*FLAT, *tree, *even, *dense)
    found = membership(study)
    assert found.shares == {"flat": 0, "tree": 1, "even": 1}
    assert (found.left_out, found.num_seeds) == (("dense",), 3)
    # aaa, bbb, ccc, six of two seeds, and abc.
    assert (found.distinct, found.few) == (10, True)
    text = html(study)
    assert "Left out, for lack of the second objective: dense." in text
    assert "Of 3 seeds there are only 10 different resamples" in text
    higher = (QUALITY, Objective("val/load/cv/expert", "maximize"))
    assert membership(study_of(*FLAT, *tree, objectives=higher)).shares == {"flat": 1, "tree": 1}
    assert membership(study_of(*FLAT)) is None
