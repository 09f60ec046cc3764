"""The runs of a study: which are inspected, that each is inspected once, and what is left out."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from hmoe.cli import main
from hmoe.inspection import Inspected, inspect_study, known_inspections
from hmoe.inspection import study as module
from hmoe.inspection.study import telling_runs
from hmoe.metrics import Inspection
from hmoe.report import views
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
    assert known_inspections(runs, study).known == {}
    found = inspect_study(runs, study, tokens=60, workers=2, show=lambda *words: told.append(words))
    assert sorted((i.arm, i.seed, i.num_tokens) for i in found.known.values()) == [
        ("tree", 0, 60),
        ("tree", 1, 60),
    ]
    assert set(found.new) == set(found.known)
    assert found.left_out == {}
    assert told[-1] == ("inspecting runs", 2, 2)
    again = inspect_study(runs, study, tokens=60, workers=2)
    assert again.new == ()
    assert again.known.keys() == found.known.keys()
    assert known_inspections(runs, study).known.keys() == found.known.keys()


def of_copy(place: Path, tokens: int = 60) -> Inspected:
    return inspect_study(
        place / "runs", read_study(place / "runs", "small"), tokens=tokens, workers=2
    )


def test_what_cannot_be_inspected_is_named(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    lost, kept = (tmp_path / "runs" / "small" / "tree" / f"seed_{seed}" for seed in (0, 1))
    shutil.rmtree(lost / "checkpoints")
    for folder in (lost, kept):
        shutil.rmtree(folder / "inspection", ignore_errors=True)
    found = of_copy(tmp_path)
    assert [i.seed for i in found.known.values()] == [1]
    assert list(found.left_out) == ["tree/seed_0"]
    assert "no whole checkpoint" in found.left_out["tree/seed_0"]


@pytest.fixture
def inspected(runs: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Folders of the two runs of a copy; the second has its record, of 60 tokens of val."""
    shutil.copytree(runs, tmp_path / "runs")
    first, second = (tmp_path / "runs" / "small" / "tree" / f"seed_{seed}" for seed in (0, 1))
    for folder in (first, second):
        shutil.rmtree(folder / "inspection", ignore_errors=True)
    assert module._inspect(second, 60, "tree/seed_1", "tree") == ""
    return first, second


def test_an_emptied_file_of_one_run_leaves_the_others(
    inspected: tuple[Path, Path], tmp_path: Path
) -> None:
    first, _ = inspected
    moment = sorted((first / "routing").iterdir())[0]
    moment.write_bytes(b"")
    found = of_copy(tmp_path)
    assert [i.seed for i in found.known.values()] == [1]
    assert list(found.left_out) == ["tree/seed_0"]


def test_a_worker_that_is_killed_leaves_the_others(
    inspected: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_inspect", killed_at_the_first)
    shutil.rmtree(inspected[1] / "inspection")
    found = of_copy(tmp_path)
    assert found.left_out.keys() == {"tree/seed_0"}
    assert found.left_out["tree/seed_0"].startswith("BrokenProcessPool: ")
    assert [i.seed for i in found.known.values()] == [1]


_INSPECT = module._inspect


def killed_at_the_first(folder: Path, tokens: int, name: str, arm: str) -> str:
    if name.endswith("0"):
        os.kill(os.getpid(), signal.SIGKILL)
    return _INSPECT(folder, tokens, name, arm)


@pytest.mark.parametrize("left", [[], ["arrays.npz"], ["arrays.npz", "inspection.json"]])
def test_what_a_kill_leaves_of_a_record_is_made_again(
    inspected: tuple[Path, Path], tmp_path: Path, left: list[str]
) -> None:
    folder = inspected[1] / "inspection"
    for file in folder.iterdir():
        if file.name in left:
            file.write_bytes(b"")
        else:
            file.unlink()
    study = read_study(tmp_path / "runs", "small")
    before = known_inspections(tmp_path / "runs", study)
    assert before.known == {}
    assert list(before.left_out) == (["tree/seed_1"] if "inspection.json" in left else [])
    found = of_copy(tmp_path)
    assert (len(found.new), len(found.known), found.left_out) == (2, 2, {})


@pytest.mark.parametrize(("split", "asked"), [("test", 60), ("val", 30), ("val", 59)])
def test_another_record_is_not_the_studys(
    inspected: tuple[Path, Path], tmp_path: Path, split: str, asked: int
) -> None:
    module._inspect(inspected[0], 60, "tree/seed_0", "tree")
    folder = inspected[1] / "inspection"
    record = Inspection.load(folder)
    replace(record, split=split, asked=asked, num_tokens=min(asked, 60), tokens="x").save(folder)
    found = of_copy(tmp_path)
    assert [found.known[i].seed for i in found.new] == [1]
    assert {(i.split, i.num_tokens, i.asked) for i in found.known.values()} == {("val", 60, 60)}
    assert len({i.tokens for i in found.known.values()}) == 1


def test_data_that_have_no_more_tokens_are_not_asked_again(
    inspected: tuple[Path, Path], tmp_path: Path
) -> None:
    for folder in inspected:
        module._inspect(folder, 10**6, folder.name, "tree")
    assert of_copy(tmp_path, 10**5).new == ()


def test_a_worker_has_one_thread(inspected: tuple[Path, Path]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        module._inspect(inspected[0], 60, "tree/seed_0", "tree")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_workers_are_as_many_as_asked_for_and_one_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [module._at_once(runs, 2) for runs in (1, 2, 60)] == [1, 2, 2]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert module._at_once(60, 8) == 1


def test_a_look_by_hand_leaves_the_studys_record(
    inspected: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = inspected[1]
    before = (second / "inspection" / "inspection.json").read_bytes()
    for tokens in (30, 20):  # other tokens, so other images
        with pytest.raises(SystemExit) as ended:
            main(["inspect", "small/tree/seed_1", f"tokens={tokens}", f"runs={tmp_path / 'runs'}"])
        assert ended.value.code == 0, capsys.readouterr().err
        assert Inspection.load(second / f"inspection_val_{tokens}").asked == tokens
    assert (second / "inspection" / "inspection.json").read_bytes() == before
    run_id = (second / "mlflow_run_id").read_text()
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/runs/mlflow.db")
    images = [file.path for file in client.list_artifacts(run_id, "images")]
    keys = {image.removeprefix("images/").split("+")[0].replace("~", "/") for image in images}
    assert keys == {
        f"organisation/val_{tokens}/"
        f"{views(Inspection.load(second / f'inspection_val_{tokens}'))[0].layer.name}"
        for tokens in (30, 20)
    }
