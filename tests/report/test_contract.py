"""What arms spent, and what makes their runs unlike, by hand."""

import json

import pytest

from hmoe.report.circumstances import (
    active_seconds,
    circumstances,
    deviations,
    registered,
    unlike,
)
from hmoe.report.contract import QUANTITIES, contract_check
from hmoe.report.tables import Spread
from hmoe.tracking import Contract, Registration
from tests.report.hand import make_run, make_study

COMMIT, VERSIONS, DATA = "mlflow.source.git.commit", "hmoe.versions", "hmoe.data_sha"


def test_contract_by_hand():
    runs = [
        make_run("ref", cost={"active_params": 990}),
        make_run("ref", cost={"active_params": 1010}),
        make_run("near", cost={"active_params": 1020}),
        make_run("far", cost={"active_params": 1000}, seed=0),
        make_run("far", cost={"active_params": 970}, seed=1),
        make_run("none", state="failed", cost={}),
    ]
    check = contract_check(make_study(runs, contract=Contract("active_params", "ref", 0.02)))
    assert check is not None
    assert (check.reference, check.reference_name) == (1000, "ref")
    assert {row.arm: row.deviation and round(row.deviation, 6) for row in check.rows} == {
        "ref": 0.0,
        "near": 0.02,
        "far": -0.03,
        "none": None,
    }
    assert [row.arm for row in check.broken] == ["far"]
    assert contract_check(make_study(runs, contract=None)) is None


def test_the_reference_is_never_called_off_from_itself():
    # Seconds are measured: 80 and 120 lie 20 % from their own mean.
    runs = [make_run("ref", seed=i, cost={"seconds": x}) for i, x in enumerate((80, 120))]
    check = contract_check(make_study(runs, contract=Contract("seconds", "ref", 0.1)))
    assert check is not None
    assert (check.rows[0].deviation, check.broken) == (0.0, ())


def test_a_contract_may_have_a_number_and_another_cost():
    run = make_run("a", cost={"active_params": 5, "train_flops": 110})
    check = contract_check(make_study([run], contract=Contract("train_flops", 100.0, 0.2)))
    assert check is not None
    (row,) = check.rows
    assert (row.deviation, row.within) == (pytest.approx(0.1), True)
    assert row.spent["active_params"] == Spread(5, None, 5, 5, 1)


def test_all_five_quantities_are_told_as_far_as_they_are_known():
    spent = {"active_params": 5, "total_params": 20, "train_flops": 110, "seconds": 3}
    check = contract_check(make_study([make_run("a", cost=spent)]))
    assert check is not None
    assert check.quantities == QUANTITIES
    means = {key: x and x.mean for key, x in check.rows[0].spent.items()}
    assert means == {
        "active_params": 5,
        "total_params": 20,
        "train_flops": 110,
        "tokens": None,
        "seconds": 3,
    }


def test_total_params_are_matched_and_another_quantity_gets_a_column():
    runs = [make_run("a", cost={"total_params": 20}), make_run("b", cost={"total_params": 30})]
    check = contract_check(make_study(runs, contract=Contract("total_params", "a", 0.02)))
    assert check is not None
    assert [row.deviation for row in check.rows] == [0, 0.5]
    other = contract_check(make_study(runs, contract=Contract("flops_per_token", "a", 0.02)))
    assert other is not None
    assert other.quantities[-1] == "flops_per_token"


def test_confirming_runs_are_held_to_the_contract_too():
    runs = [make_run("a"), make_run("a", kind="confirm", seed=9, cost={"active_params": 1100})]
    check = contract_check(make_study(runs))
    assert check is not None
    assert [row.arm for row in check.broken] == ["a"]


def tagged(seed, **tags):
    names = {"commit": COMMIT, "dirty": "hmoe.git_dirty", "versions": VERSIONS, "data": DATA}
    return make_run("a", 1.0, seed=seed, tags={names[key]: x for key, x in tags.items()})


def test_runs_of_one_commit_one_environment_and_one_data_set_are_alike():
    same = {"commit": "c" * 40, "versions": json.dumps({"torch": "2"}), "data": "d" * 64}
    assert unlike(make_study([tagged(0, **same), tagged(1, **same), make_run("a")])) == []


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({"commit": "c" * 40}, {"commit": "e" * 40}, "git commits: cccccccccccc; eeeeeeeeeeee"),
        (
            {"commit": "c" * 40},
            {"commit": "c" * 40, "dirty": "true"},
            "git commits: cccccccccccc; cccccccccccc with uncommitted changes",
        ),
        (
            {"versions": json.dumps({"torch": "2.1"})},
            {"versions": json.dumps({"torch": "2.2"})},
            "versions: torch 2.1; torch 2.2",
        ),
    ],
)
def test_a_difference_is_told(one, other, told):
    assert unlike(make_study([tagged(0, **one), tagged(1, **other)])) == [told]


def test_data_may_differ_between_seeds_only_if_every_seed_has_its_own():
    a, b = "a" * 64, "b" * 64
    told = ["data: sha256 aaaaaaaaaaaa…; sha256 bbbbbbbbbbbb…"]
    made_from_the_seed = [tagged(0, data=a), tagged(1, data=b), tagged(0, data=a)]
    assert unlike(make_study(made_from_the_seed)) == []
    assert unlike(make_study([tagged(0, data=a), tagged(0, data=b)])) == told
    assert unlike(make_study([tagged(0, data=a), tagged(1, data=a), tagged(2, data=b)])) == told


def test_the_registration_and_its_deviations():
    study = make_study(
        [make_run("a", seed=3), make_run("a", kind="confirm", seed=3)],
        registration=Registration("d" * 64, "c" * 40, "2026-01-02T03:04:05Z"),
        tags={"hmoe.deviations": json.dumps(["budget.trials: 9 -> 15"])},
    )
    assert registered(study) == [
        ("digest of the plan", "sha256 dddddddddddd…"),
        ("git commit", "cccccccccccc"),
        ("registered", "2026-01-02T03:04:05Z"),
    ]
    assert deviations(study) == ["budget.trials: 9 -> 15", "seeds of the search confirm too: 3"]
    plain = make_study([make_run("a", seed=3), make_run("a", kind="confirm", seed=4)])
    assert (registered(plain), deviations(plain)) == ([], [])


def test_idle_time_is_not_active_and_confirming_runs_have_trained_too():
    # 0 to 100 and 50 to 160 s overlap, 20 to 30 s lies within; an hour later 40 s more; one runs.
    times = [(0, 100), (20, 30), (50, 160), (3760, 3800), (3790, None)]
    runs = [
        make_run(
            "a",
            seed=i,
            kind="confirm" if start > 1000 else "trial",
            start_ms=1000 * start,
            end_ms=end and 1000 * end,
            cost={"seconds": end - start} if end else {},
        )
        for i, (start, end) in enumerate(times)
    ]
    study = make_study(list(reversed(runs)), end_ms=3_800_000)
    assert active_seconds(study) == 200
    told = dict(circumstances(study))
    told = {key: text.replace("\u202f", " ") for key, text in told.items()}
    assert told["active time"] == "3 min 20 s, while some run was under way"
    assert told["from beginning to end"] == "1 h 3 min"
    assert told["training time"] == (
        "3 min 40 s in 3 trials, 1 min 13 s each on average; "
        "40.0 s in 1 confirming run, 40.0 s each on average"
    )
