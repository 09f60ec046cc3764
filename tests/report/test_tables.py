"""Rows worked out by hand."""

from dataclasses import replace

import pytest

from hmoe.report.curves import over_seconds, over_steps
from hmoe.report.tables import (
    Spread,
    arm_rows,
    balance_rows,
    end_rows,
    load_rows,
    pareto_front,
    spread,
    trials,
    value,
    varied_params,
)
from hmoe.tracking import Objective
from tests.report.hand import BALANCE, QUALITY, curve, level, make_run, make_study


def test_spread_by_hand():
    # mean 2, deviations -1, 0, 1, sum of squares 2, over n - 1 = 2: 1
    assert spread([1, 2, 3]) == Spread(2, 1, 1, 3, 3)
    assert spread([5]) == Spread(5, None, 5, 5, 1)
    assert spread([]) is None


def test_arm_rows_by_hand():
    runs = [
        make_run(
            "flat", 3.0, 0.5, seed=0, tree="16", cost={"active_params": 10, "total_params": 40}
        ),
        make_run("dense", 4.0),
        make_run(
            "flat", 1.0, 0.3, seed=1, tree="16", cost={"active_params": 20, "total_params": 40}
        ),
        make_run("flat", seed=2, state="failed"),
        make_run("flat", 0.1, 0.1, kind="confirm"),
    ]
    dense, flat = arm_rows(make_study(runs, arms=("dense", "flat")))
    assert (dense.arm, dense.tree, dense.balance, dense.flops_per_token) == (
        "dense",
        "",
        None,
        None,
    )
    assert (flat.tree, flat.params, flat.active_params) == ("16", 40, 15)
    assert flat.ended == {"complete": 2, "failed": 1}
    assert flat.num_seeds == 2
    assert flat.quality == Spread(2.0, pytest.approx(2**0.5), 1.0, 3.0, 2)
    assert flat.best is not None
    assert flat.best.seed == 1
    assert flat.balance is not None
    assert flat.balance.mean == pytest.approx(0.4)


def test_the_best_trial_follows_the_direction():
    runs = [make_run("a", 0.2, seed=0), make_run("a", 0.9, seed=1)]
    higher = Objective("val/loss", "maximize")
    (row,) = arm_rows(make_study(runs, objectives=(higher,)))
    assert row.best is runs[1]


def test_only_complete_runs_have_values():
    assert value(make_run("a", 1.0, state="diverged"), QUALITY) is None
    assert value(make_run("a", 1.0), QUALITY) == 1.0
    assert value(make_run("a", 1.0), BALANCE) is None
    run = make_run("a", metrics={"best/val/loss": 0.5, "cost/params": 7})
    assert value(run, Objective("best/val/loss", "minimize")) == 0.5
    assert value(run, Objective("cost/params", "minimize")) == 7


def test_pareto_front_by_hand():
    #   balance 1: quality 5 (front), 6;  2: 3 (front, twice), 4;  3: 3;  4: 1 (front)
    points = [(5, 1), (6, 1), (3, 2), (3, 2), (4, 2), (3, 3), (1, 4)]
    runs = [make_run("a", q, b, seed=i) for i, (q, b) in enumerate(points)]
    dense, dead = make_run("dense", 0.1), make_run("a", 0, 0, seed=9, state="failed")
    study = make_study([*reversed(runs), dense, dead])
    assert sorted(run.seed for run in pareto_front(study)) == [0, 2, 3, 6]
    balances = [value(run, BALANCE) for run in pareto_front(study)]
    assert balances == sorted(balances)


def test_pareto_front_when_quality_is_maximised():
    runs = [
        make_run("a", q, b, seed=i) for i, (q, b) in enumerate([(5, 1), (6, 1), (3, 2), (7, 3)])
    ]
    study = make_study(runs, objectives=(Objective("val/loss", "maximize"), BALANCE))
    assert [run.seed for run in pareto_front(study)] == [1, 3]


def test_balance_rows_come_by_level_and_tell_the_last_once():
    metrics = {
        f"final/val/load/cv/{place}": x
        for place, x in {"level_0": 0.1, "level_10": 0.3, "level_2": 0.2, "expert": 0.3}.items()
    }
    rows = balance_rows(make_study([make_run("a", metrics=metrics)]))
    assert [row.level for row in rows] == ["level_0", "level_2", "level_10"]
    assert rows[0].statistics == {
        "cv": Spread(0.1, None, 0.1, 0.1, 1),
        "max_violation": None,
        "entropy": None,
        "dead": None,
    }


def test_load_rows_are_means_over_trials_of_the_same_tree():
    loads = [
        {"level_0": level("ab", [0.75, 0.25], [0.5, 0.5])},
        {"level_0": level("ab", [0.25, 0.75], [0.5, 0.5])},
        {"level_0": level("abc", [1, 0, 0], [1 / 3] * 3)},
    ]
    runs = [make_run("flat", 1.0, seed=i, level_loads=x) for i, x in enumerate(loads)]
    (row,) = load_rows(make_study([make_run("dense", 1.0), *runs]))
    assert (row.arm, row.nodes, row.even) == ("flat", ("a", "b"), (0.5, 0.5))
    assert [(s.mean, s.low, s.high, s.n) for s in row.loads] == [(0.5, 0.25, 0.75, 2)] * 2


def test_runs_that_did_not_complete_are_counted_by_reason():
    oom, lost = {"hmoe.reason": "out of memory"}, {"hmoe.reason": "killed"}
    runs = [
        make_run("a", state="interrupted", seed=0, tags=lost),
        make_run("a", state="failed", seed=1, tags=oom),
        make_run("b", state="failed", seed=2, tags=oom),
        make_run("b", 1.0, seed=3),
        make_run("b", state="failed", seed=4, tags=oom, kind="confirm"),
    ]
    rows = [(r.state, r.reason, len(r.runs)) for r in end_rows(make_study(runs))]
    assert rows == [("failed", "out of memory", 3), ("interrupted", "killed", 1)]


def test_trials_come_in_the_order_of_the_arms():
    runs = [make_run(arm) for arm in ("c", "a", "unlisted", "b")]
    found = trials(make_study(runs, arms=("a", "b", "c")))
    assert [run.arm for run in found] == ["a", "b", "c", "unlisted"]


def test_only_settings_that_differ_are_shown():
    runs = [
        make_run("a", seed=i, swept=("lr", "dim"), params={"lr": str(i), "dim": "8", "x": str(i)})
        for i in range(2)
    ]
    lacks_both = make_run("dense", swept=())
    assert varied_params(make_study([*runs, lacks_both])) == ["lr"]


def test_curves_over_steps_by_hand():
    curves = [curve(4, 2, 1), curve(6, 4)]
    runs = [make_run("a", 1.0, seed=i, history={"m": c}) for i, c in enumerate(curves)]
    pruned = make_run("a", state="pruned", seed=9, history={"m": curve(0, 0)})
    band = over_steps(make_study([*runs, pruned]), "a", "m")
    assert band is not None
    assert (band.x, band.mean, band.low, band.high, band.n) == ((0, 10), (5, 3), (4, 2), (6, 4), 2)
    assert over_steps(make_study(runs), "a", "other") is None


def test_curves_over_seconds_by_hand():
    fast, slow = curve(4, 2, seconds_per_step=1), curve(4, 2, seconds_per_step=2)
    runs = [make_run("a", 1.0, seed=i, history={"m": c}) for i, c in enumerate([fast, slow])]
    band = over_seconds(make_study(runs), "a", "m")
    assert band is not None
    # After 10 s the fast one is at its end, 2, and the slow one half way, 3.
    assert (band.x[0], band.x[-1]) == (0, 10)
    assert (band.mean[0], band.low[-1], band.high[-1]) == (4, 2, pytest.approx(3))
    one_point = [replace(run, history={"m": curve(4)}) for run in runs]
    assert over_seconds(make_study(one_point), "a", "m") is None
