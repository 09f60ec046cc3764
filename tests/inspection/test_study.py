"""The runs of a study: which are inspected, that each is inspected once, and what is left out."""

import shutil
from pathlib import Path

import pytest

from hmoe.inspection import inspect_study, known_inspections
from hmoe.inspection.study import telling_runs
from hmoe.tracking import Store, read_study
from tests.report.hand import make_run, make_study
from tests.tiny import train_in


def test_confirming_runs_tell_else_the_best_trial_of_each_arm() -> None:
    losses = enumerate((0.5, 0.3, 0.4))
    trials = [make_run("tree", loss, seed=i, tree="2x2") for i, loss in losses]
    failed = make_run("tree", 0.1, seed=7, state="failed", tree="2x2")
    dense = make_run("dense", 0.2)
    flat = make_run("flat", 0.9, tree="4")
    found = telling_runs(make_study([*trials, failed, dense, flat]))
    assert [run.name for run in found] == ["tree/1", "flat/0"]
    confirming = [make_run("tree", 0.6, seed=i, kind="confirm", tree="2x2") for i in (8, 9)]
    assert telling_runs(make_study([*trials, *confirming])) == confirming


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two runs that confirm and a dense one, trained and tracked."""
    runs = tmp_path_factory.mktemp("study") / "runs"
    store = Store(runs)
    parent = store.start_study(
        "small",
        question="?",
        objectives=[("val/loss", "minimize")],
        contract={"match": "active_params", "reference": "tree", "tolerance": 0.02},
        arms=["tree", "dense"],
        command="hmoe sweep",
    )
    for arm, seed in (("tree", 0), ("tree", 1), ("dense", 0)):
        folder = runs / "small" / arm / f"seed_{seed}"
        changes = ("ffn@model.ffn=dense", "balance=none") if arm == "dense" else ()
        train_in(folder, f"seed={seed}", *changes)
        run_id = store.start_run(
            folder,
            study="small",
            kind="confirm",
            name=f"{arm}/seed_{seed}",
            arm=arm,
            seed=seed,
            command="hmoe train",
            parent=parent,
        )
        store.finish(run_id, folder, state="complete")
    store.finish_study(parent, state="complete")
    return runs


def test_a_study_is_inspected_once(runs: Path) -> None:
    study, told = read_study(runs, "small"), []
    assert known_inspections(runs, study) == {}
    found = inspect_study(runs, study, tokens=60, show=lambda *words: told.append(words))
    assert sorted((i.arm, i.seed, i.num_tokens) for i in found.known.values()) == [
        ("tree", 0, 60),
        ("tree", 1, 60),
    ]
    assert set(found.new) == set(found.known)
    assert found.left_out == {}
    assert told[-1] == ("inspecting runs", 2, 2)
    again = inspect_study(runs, study, tokens=50)
    assert again.new == ()
    assert {i.num_tokens for i in again.known.values()} == {60}
    assert known_inspections(runs, study).keys() == found.known.keys()


def test_what_cannot_be_inspected_is_named(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    lost, kept = (tmp_path / "runs" / "small" / "tree" / f"seed_{seed}" for seed in (0, 1))
    shutil.rmtree(lost / "checkpoints")
    for folder in (lost, kept):
        shutil.rmtree(folder / "inspection", ignore_errors=True)
    found = inspect_study(tmp_path / "runs", read_study(tmp_path / "runs", "small"), tokens=60)
    assert [i.seed for i in found.known.values()] == [1]
    assert list(found.left_out) == ["tree/seed_0"]
    assert "no whole checkpoint" in found.left_out["tree/seed_0"]
