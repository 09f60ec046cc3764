"""What was written comes back as the same table."""

import json
import shutil
import time

import pytest
from mlflow import MlflowClient

from hmoe.errors import ConfigError
from hmoe.tracking import Objective, read_study, study_names, with_history
from tests.tracking.fake import (
    ARMS,
    COMMIT,
    OBJECTIVES,
    empty_store,
    event,
    fake_study,
    write_events,
)

SMALL = ARMS[:2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    runs = tmp_path_factory.mktemp("study") / "runs"
    fake_study(runs, SMALL, trials=2)
    return runs


def test_the_table_of_a_study_is_that_of_its_run_folders(runs):
    study = read_study(runs, "fake")
    complete = {run.name: run for run in study.runs if run.state == "complete"}
    assert sorted(complete) == [f"{a.name}/trial_00{i}" for a in SMALL for i in range(2)]
    for name, run in complete.items():
        result = json.loads((runs / "fake" / name / "result.json").read_text())
        metrics = {k: v for k, v in result["metrics"].items() if not k.startswith("best/")}
        final = {k[6:]: v for k, v in run.metrics.items() if k.startswith("final/")}
        assert final == metrics
        assert dict(run.cost) == result["cost"]
        assert (run.seed, run.tree, run.command) == (
            result["seed"],
            result["tree"] if run.arm == "flat" else "",
            result["command"],
        )
        assert run.start_ms > 0
        assert run.end_ms == round(1000 * result["ended"])
        levels = {
            level: {"nodes": list(x.nodes), "load": list(x.load), "even": list(x.even)}
            for level, x in run.level_loads.items()
        }
        assert levels == result["level_loads"]


def test_the_study_knows_its_question_arms_and_objectives(runs):
    study = read_study(runs, "fake")
    assert study.question.startswith("Does a tree")
    assert study.arms == ("dense", "flat")
    assert study.objectives == tuple(Objective(*o) for o in OBJECTIVES)
    assert (study.contract.match, study.contract.reference, study.contract.tolerance) == (
        "active_params",
        "dense",
        0.02,
    )
    assert study.command == "hmoe sweep sweep=fake workers=2"
    assert study.tags["mlflow.source.git.commit"] == COMMIT
    states = sorted((run.state, run.status, run.reason) for run in study.runs)
    assert states[-2:] == [
        ("diverged", "FAILED", "train/loss is nan at step 100"),
        ("failed", "FAILED", "CUDA out of memory"),
    ]
    assert {run.swept for run in study.runs} == {("optim.lr",)}


def test_curves_come_back_point_by_point(runs):
    study = with_history(runs, read_study(runs, "fake"), ["val/loss", "val/load/cv/expert"])
    for run in study.runs:
        lines = (runs / "fake" / run.name / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        expected = [
            (e["step"], e["metrics"]["val/loss"]) for e in events if "val/loss" in e["metrics"]
        ]
        assert [(p.step, p.value) for p in run.history.get("val/loss", ())] == expected
        assert ("val/load/cv/expert" in run.history) == (
            run.arm == "flat" and run.state == "complete"
        )


def test_a_pause_is_left_out_of_the_seconds(tmp_path):
    store = empty_store(tmp_path)
    folder, ago = tmp_path / "s" / "r", time.time() - 5000

    def start(parent):
        return store.start_run(
            folder, study="s", kind="trial", name="r", arm="a", seed=0, command="c", parent=parent
        )

    parent = store.start_study(
        "s", question="?", objectives=OBJECTIVES, contract={}, arms=["a"], command="c"
    )
    start(parent)
    write_events(folder, [event(0, time=ago, a=1), event(10, time=ago, a=1)])
    run_id = start(parent)
    resumed = time.time()
    write_events(folder, [event(11, time=resumed - 11 + 4, a=1)])
    store.finish(run_id, folder, state="complete")
    (run,) = with_history(tmp_path, read_study(tmp_path, "s"), ["a"]).runs
    seconds = [p.seconds for p in run.history["a"]]
    assert seconds[:2] == [0, 10]
    assert seconds[2] == pytest.approx(14, abs=1)


def test_a_run_closed_by_other_hands_has_the_state_of_its_status(tmp_path):
    store = empty_store(tmp_path)
    parent = store.start_study(
        "s", question="?", objectives=OBJECTIVES, contract={}, arms=["a"], command="c"
    )
    folders = [tmp_path / str(i) for i in range(3)]
    for folder, status in zip(folders, ("FINISHED", "FAILED", "KILLED"), strict=True):
        about = {"study": "s", "kind": "trial", "name": "r", "arm": "a", "seed": 0, "command": "c"}
        run_id = store.start_run(folder, parent=parent, **about)
        MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db").set_terminated(run_id, status)
    states = [run.state for run in read_study(tmp_path, "s").runs]
    assert states == ["complete", "failed", "interrupted"]


def test_the_looks_at_a_confirmation_are_read(tmp_path):
    store = empty_store(tmp_path)
    about = {"question": "?", "objectives": OBJECTIVES, "contract": {}, "arms": ["a"]}
    store.start_study("s", **about, command="c", tags={"hmoe.looks": [3, 5]})
    store.start_study("t", **about, command="c")
    assert read_study(tmp_path, "s").looks == (3, 5)
    assert read_study(tmp_path, "t").looks == ()


def test_a_runs_folder_may_move(runs, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(runs, moved)
    assert any(run.level_loads for run in read_study(moved, "fake").runs)


def test_a_missing_study_names_the_nearest(runs):
    with pytest.raises(ConfigError, match=r"there are fake\. Did you mean 'fake'\?"):
        read_study(runs, "fakee")


def test_a_missing_store_is_an_error_and_is_not_made(tmp_path):
    for read in (lambda: read_study(tmp_path, "s"), lambda: study_names(tmp_path)):
        with pytest.raises(ConfigError, match=r"Run `hmoe train` or `hmoe sweep` first"):
            read()
    assert list(tmp_path.iterdir()) == []


def test_studies_are_listed(runs):
    assert study_names(runs) == ["fake"]
