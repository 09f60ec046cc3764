"""Two runs or arms side by side; every number worked out by hand."""

import io
import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console

from hmoe.errors import ConfigError
from hmoe.report.comparison import (
    Side,
    cost_rows,
    find_side,
    metric_rows,
    print_comparison,
    setting_rows,
)
from tests.report.hand import make_run
from tests.tracking.fake import ARMS, fake_study

MATCHED = {"hmoe.contract": json.dumps({"match": "active_params", "tolerance": 0.02})}


def side(name: str, *losses: float, first: int = 0, **changes) -> Side:
    runs = [make_run(name, x, seed=first + i, **changes) for i, x in enumerate(losses)]
    return Side(name, tuple(runs))


def shown(a: Side, b: Side, width: int = 200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    print_comparison(console, a, b)
    return console.export_text()


def test_only_settings_that_differ_are_listed():
    a = side("a", 1.0, 2.0, params={"seed": "0", "optim.lr": "0.001", "data.batch_size": "64"})
    b = side("b", 1.0, params={"seed": "1", "optim.lr": "0.002", "data.batch_size": "64", "k": "2"})
    assert setting_rows(a, b) == [("optim.lr", "0.001", "0.002"), ("k", "–", "2")]  # noqa: RUF001


def test_the_difference_is_b_minus_a_on_the_seeds_that_both_have():
    # On seeds 1 and 2: 1.5 - 2.0 and 2.6 - 3.0. Student's t of one degree at 0.975 is 12.706.
    (row,) = metric_rows(side("a", 1.0, 2.0, 3.0), side("b", 1.5, 2.6, first=1))
    assert row.metric == "val/loss"
    assert (row.a.mean, row.b.mean) == (2.0, pytest.approx(2.05))
    assert row.difference_S == pytest.approx((-0.5, -0.4))
    assert row.difference.mean == pytest.approx(-0.45)
    assert row.difference.high - row.difference.mean == pytest.approx(12.706 * 0.05, rel=1e-4)


def test_one_seed_in_common_has_no_interval():
    (row,) = metric_rows(side("a", 1.0), side("b", 1.5))
    assert row.difference_S == (0.5,)
    assert row.difference is None


def test_loads_of_single_levels_are_left_out():
    more = {"final/val/load/cv/level_0": 0.3, "val/loss": 9.0}
    (row,) = metric_rows(side("a", 1.0, metrics=more), side("b", 1.0, metrics=more))
    assert row.metric == "val/loss"


def test_under_one_contract_its_quantity_must_agree_within_its_tolerance():
    a = side("a", 1.0, tags=MATCHED, cost={"active_params": 1000.0, "total_params": 4000.0})
    b = side("b", 1.0, tags=MATCHED, cost={"active_params": 1021.0, "total_params": 9000.0})
    rows = {row.name: row for row in cost_rows(a, b)}
    assert rows["active_params"].off == pytest.approx(0.021)
    assert [name for name, row in rows.items() if row.broken] == ["active_params"]
    assert (rows["total_params"].a, rows["total_params"].b) == (4000.0, 9000.0)
    assert rows["tokens"].off is None
    assert "not matched on active_params:" in shown(a, b)
    near = side("b", 1.0, tags=MATCHED, cost={"active_params": 1019.0, "total_params": 9000.0})
    assert "not matched" not in shown(a, near)


def test_without_a_common_contract_all_but_the_seconds_must_agree():
    cost = {"active_params": 1000.0, "total_params": 4000.0, "train_flops": 1e9, "tokens": 100.0}
    a = side("a", 1.0, tags=MATCHED, cost=cost | {"seconds": 1.0})
    b = side("b", 1.0, cost=cost | {"train_flops": 2e9, "tokens": 103.0, "seconds": 9.0})
    assert [row.name for row in cost_rows(a, b) if row.broken] == ["train_flops", "tokens"]


def test_differences_between_trials_are_called_what_they_are():
    lead = "Trials of a search are a lead"
    assert lead in shown(side("a", 1.0, 2.0), side("b", 1.5, 2.2))
    assert lead not in shown(
        side("a", 1.0, 2.0, kind="confirm"), side("b", 1.5, 2.2, kind="confirm")
    )


def test_a_comparison_fits_100_columns_whole():
    long = {"final/val/load/max_violation/expert": 0.25}
    a = side("hierarchy/flat", 2.888, 2.9, 3.0, metrics=long, kind="confirm")
    b = side("hierarchy/two_level", 2.9, 2.96, 3.1, first=1, kind="confirm")
    more = make_run("b", 3.0, seed=9, metrics=long, kind="confirm")
    b = Side(b.name, (*b.runs, more))
    text = shown(a, b, width=100)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "A: hierarchy/flat, 3 confirmation runs" in lines
    assert "An arm stands for its confirmation runs, or without any for its trials." in lines
    assert "A (n = 3) B (n = 4) B - A [95 %] (n = 2)" in lines
    # Seeds 1 and 2: 2.9 - 2.9 and 2.96 - 3.0, half the interval 12.706 x 0.02 = 0.254.
    assert any(x.endswith("\u22120.02 [\u22120.27, +0.23]") for x in lines if "val/loss" in x)
    # One run of B alone has the metric; its number is told where it is not the heading's.
    assert any(x.startswith("val/load/max_violation/expert 0.2500") for x in lines)
    assert any("0.2500 (n = 1)" in x for x in lines)
    assert "B off A: the share of A by which B spent more (+) or less." in lines


def test_a_narrow_terminal_cuts_no_name():
    long = {"final/val/load/max_violation/expert": 0.25}
    text = shown(side("a", 1.0, metrics=long), side("b", 2.0, metrics=long), width=30)
    assert "val/load/max_violation/expert" in text


# ------------------------------------------------------------------- found by name


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    runs = tmp_path_factory.mktemp("compare") / "runs"
    fake_study(runs, ARMS[:2], trials=2)
    return runs


def test_an_arm_is_all_its_complete_trials(runs):
    found = find_side(runs, "fake/flat")
    assert [(run.arm, run.seed, run.state) for run in found.runs] == [
        ("flat", 0, "complete"),
        ("flat", 1, "complete"),
    ]


def test_a_run_is_found_by_name_and_by_id(runs):
    (run,) = find_side(runs, "flat/trial_001").runs
    assert (run.arm, run.seed) == ("flat", 1)
    assert find_side(runs, run.id).runs == (run,)
    assert find_side(runs, "fake/flat").runs[1] == run


def test_run_folders_are_found_whatever_the_run_is_called(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(runs.parent)
    (run,) = find_side(Path("runs"), "runs/fake/flat/trial_001").runs
    assert (run.arm, run.seed) == ("flat", 1)
    assert find_side(runs, str(runs / "fake/flat/trial_001")).runs == (run,)
    assert find_side(runs, "runs/fake/flat").runs == find_side(runs, "fake/flat").runs
    # As `hmoe repro` finds it, from anywhere and under an older name.
    monkeypatch.chdir(tmp_path)
    client = MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")
    client.set_tag(run.id, "mlflow.runName", "flat-1")
    assert find_side(runs, "fake/flat/trial_001").runs[0].id == run.id
    assert find_side(runs, f"{runs}/fake/flat/trial_001").runs[0].name == "flat-1"
    client.set_tag(run.id, "mlflow.runName", run.name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fake", r"fake: a study has many arms; name one: fake/dense, fake/flat\."),
        ("fak/flat", r"has it.* Among the arms: Did you mean 'fake/flat'\?"),
        (
            "fake/falt",
            r"study fake has no arm 'falt' and no run of that name\. Did you mean 'flat'",
        ),
        ("flat/trial_01", r"no run in .* has it\. Did you mean 'flat/trial_001'"),
    ],
)
def test_a_name_of_nothing_is_told_with_the_nearest(name, told, runs):
    with pytest.raises(ConfigError, match=told):
        find_side(runs, name)
