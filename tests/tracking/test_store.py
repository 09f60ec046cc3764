"""Writing to MLflow: what is stored, and what a crash at any point may not change."""

import json
import logging
import shutil
import subprocess
import sys

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import ViewType

from hmoe.errors import ConfigError, DataError
from hmoe.tracking import Store
from tests.tracking.fake import (
    DIGEST,
    OBJECTIVES,
    START,
    empty_store,
    event,
    write_events,
    write_result,
)

CONTRACT = {"match": "active_params", "reference": "dense", "tolerance": 0.02}


@pytest.fixture
def store(tmp_path):
    return empty_store(tmp_path / "runs")


@pytest.fixture
def client(store):
    """MLflow as any other program sees it."""
    return MlflowClient(tracking_uri=f"sqlite:///{store.runs}/mlflow.db")


@pytest.fixture
def folder(store):
    path = store.runs / "s" / "flat" / "trial_000"
    path.mkdir(parents=True)
    return path


def start_study(store, **changes):
    return store.start_study(
        "s",
        **{
            "question": "Is it so?",
            "objectives": OBJECTIVES,
            "contract": CONTRACT,
            "arms": ["dense", "flat"],
            "command": "hmoe sweep sweep=s",
            **changes,
        },
    )


def start_run(store, folder, **changes):
    return store.start_run(
        folder,
        **{
            "study": "s",
            "kind": "trial",
            "name": "flat/0",
            "arm": "flat",
            "seed": 3,
            "command": "hmoe train seed=3",
            **changes,
        },
    )


def history(client, run_id, key="a"):
    return [(m.step, m.value) for m in client.get_metric_history(run_id, key)]


def test_a_new_store_is_made_quietly_and_sends_no_telemetry(tmp_path):
    script = (
        "import sys; from pathlib import Path; from hmoe.tracking import Store;"
        "Store(Path(sys.argv[1]));"
        "from mlflow.telemetry import get_telemetry_client; assert get_telemetry_client() is None"
    )
    runs = tmp_path / "my runs"  # a blank in the path is no trouble
    done = subprocess.run(
        [sys.executable, "-c", script, str(runs)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (runs / "mlflow.db").is_file()


@pytest.mark.slow
def test_processes_that_make_one_store_at_once_all_succeed(tmp_path):
    script = "import sys; from pathlib import Path; from hmoe.tracking import Store; "
    script += "Store(Path(sys.argv[1])).experiment(sys.argv[2])"
    command = [sys.executable, "-c", script, str(tmp_path)]
    started = [subprocess.Popen([*command, f"s{i}"]) for i in range(3)]
    assert [process.wait(100) for process in started] == [0, 0, 0]


def test_opening_a_store_leaves_the_levels_of_loggers_as_they_were(store):
    logging.getLogger("alembic").setLevel(logging.ERROR)
    Store(store.runs)
    assert logging.getLogger("alembic").level == logging.ERROR


@pytest.mark.parametrize("name", ["", "../up", "a/b", "<script>", ".", "x" * 81])
def test_a_study_name_that_is_no_folder_name_is_refused(store, name):
    with pytest.raises(ConfigError, match="study = "):
        store.experiment(name)


def test_a_deleted_study_is_refused_in_words(store, client):
    client.delete_experiment(store.experiment("s"))
    with pytest.raises(ConfigError, match="deleted"):
        store.experiment("s")


def test_a_study_is_one_parent_run_however_often_it_starts(store, client):
    first = start_study(store)
    store.finish_study(first, state="interrupted")
    assert client.get_run(first).info.status == "KILLED"
    second = start_study(store, command="hmoe resume s")
    run = client.get_run(second)
    assert (second, run.info.status) == (first, "RUNNING")
    assert run.data.tags["hmoe.command"] == "hmoe sweep sweep=s"
    assert json.loads(run.data.tags["hmoe.objectives"]) == [list(o) for o in OBJECTIVES]
    assert json.loads(run.data.tags["hmoe.contract"]) == CONTRACT
    assert json.loads(run.data.tags["hmoe.arms"]) == ["dense", "flat"]
    assert "hmoe.state" not in run.data.tags


def test_a_trial_is_a_child_with_its_tags_and_params(store, client, folder):
    parent = start_study(store)
    run_id = start_run(store, folder, parent=parent, swept={"optim.lr": 0.1, "data.api_key": "k"})
    run = client.get_run(run_id)
    tags = run.data.tags
    assert tags["mlflow.parentRunId"] == parent
    assert tags["mlflow.runName"] == "flat/0"
    assert tags["hmoe.folder"] == "s/flat/trial_000"
    assert (tags["hmoe.arm"], tags["hmoe.seed"], tags["hmoe.kind"]) == ("flat", "3", "trial")
    assert json.loads(tags["hmoe.contract"]) == CONTRACT
    assert "hmoe train seed=3" in tags["mlflow.note.content"]
    assert run.data.params == {"optim.lr": "0.1", "data.api_key": "REDACTED"}
    assert run.info.status == "RUNNING"


def test_a_resumed_trial_goes_on_in_the_same_run(store, client, folder):
    run_id = start_run(store, folder)
    write_events(folder, [event(1, a=1), event(2, a=2)])
    store.finish(run_id, folder, state="interrupted", reason="Ctrl-C")
    assert client.get_run(run_id).info.status == "KILLED"

    assert start_run(Store(store.runs), folder) == run_id
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.tags["hmoe.state"] == "running"
    assert "hmoe.reason" not in run.data.tags
    write_events(folder, [event(2, time=START + 900, a=2.5), event(3, time=START + 900, a=3)])
    store.append_events(run_id, folder)
    assert history(client, run_id) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_folder_whose_run_is_gone_gets_a_new_one_with_all_events(store, client, folder):
    write_events(folder, [event(1, a=1)])
    first = start_run(store, folder)
    store.append_events(first, folder)
    client.delete_run(first)
    second = start_run(store, folder)
    store.append_events(second, folder)
    assert second != first
    assert history(client, second) == [(1, 1.0)]


def test_uploading_twice_stores_once(store, client, folder):
    run_id = start_run(store, folder)
    write_events(folder, [event(s, a=s, b=s) for s in range(10)])
    assert store.append_events(run_id, folder) == 20
    assert store.append_events(run_id, folder) == 0
    write_events(folder, [event(10, a=10)])
    assert store.append_events(run_id, folder) == 1
    assert history(client, run_id) == [(s, float(s)) for s in range(11)]


@pytest.mark.parametrize("bookmark", ["before", "none"])
def test_a_crash_between_upload_and_bookmark_stores_once(store, client, folder, bookmark):
    run_id = start_run(store, folder)
    write_events(folder, [event(1, a=1), event(2, a=2)])
    store.append_events(run_id, folder)
    saved = folder / "mlflow_upload.json"
    shutil.copy(saved, folder / "old")
    write_events(folder, [event(3, a=3), event(2, time=9e8, a=7)])
    store.append_events(run_id, folder)
    # The bookmark of the second upload never reached the disk.
    (folder / "old").replace(saved) if bookmark == "before" else saved.unlink()
    store.append_events(run_id, folder)
    assert history(client, run_id) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_more_than_a_thousand_values_arrive_in_batches(store, client, folder, monkeypatch):
    run_id = start_run(store, folder)
    write_events(folder, [event(s, a=s, b=s, c=s) for s in range(700)])
    sizes = []
    log_batch = store._client.log_batch

    def spy(run_id, metrics=(), **others):
        sizes.append(len(metrics))
        log_batch(run_id, metrics=metrics, **others)

    monkeypatch.setattr(store._client, "log_batch", spy)
    assert store.append_events(run_id, folder) == 2100
    assert [s for s in sizes if s] == [999, 999, 102]
    assert len(history(client, run_id, "c")) == 700


def test_infinite_values_become_a_tag_and_no_metric(store, client, folder):
    run_id = start_run(store, folder)
    write_events(folder, [event(1, a=1.0), event(2, a=float("inf"), b=float("nan"))])
    with (folder / "events.jsonl").open("a") as file:
        file.write("what?\n")
    store.append_events(run_id, folder)
    run = client.get_run(run_id)
    assert run.data.metrics == {"a": 1.0}
    assert json.loads(run.data.tags["hmoe.nonfinite"])["a"] == "inf at step 2"
    assert run.data.tags["hmoe.bad_lines"] == "1"


def test_a_finished_run_holds_its_result(store, client, folder):
    run_id = start_run(store, folder, swept={"optim.lr": 0.1})
    (folder / "config.yaml").write_text("seed: 3\noptim: {lr: 0.1}\ndata: {url: 'a://b:c@d'}\n")
    result = write_result(folder, metrics={"val/loss": 1.5, "best/val/loss": 1.25, "x": 1e999})
    write_events(folder, [event(1, a=1)])
    for _ in range(2):  # a crash after finishing repeats it
        store.finish(run_id, folder, state="complete")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.end_time == 1000 * (START + 60)
    assert run.data.metrics == {
        "a": 1.0,
        "final/val/loss": 1.5,
        "best/val/loss": 1.25,
        "cost/total_params": 4000.0,
        "cost/active_params": 1000.0,
        "cost/flops_per_token": 2000.0,
    }
    assert len(client.get_metric_history(run_id, "final/val/loss")) == 1
    assert run.data.params == {"optim.lr": "0.1", "seed": "3"}
    tags = run.data.tags
    assert (tags["hmoe.state"], tags["hmoe.tree"], tags["hmoe.git_dirty"]) == (
        "complete",
        "4",
        "false",
    )
    assert tags["hmoe.data_sha"] == DIGEST
    place = store.runs / "mlartifacts" / "s" / run_id / "artifacts"
    assert yaml.safe_load((place / "config.yaml").read_text())["data"] == {
        "url": "a://b:REDACTED@d"
    }
    assert json.loads((place / "result.json").read_text())["seed"] == result["seed"]
    assert json.loads((place / "level_loads.json").read_text()) == result["level_loads"]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("complete", "FINISHED"),
        ("pruned", "FINISHED"),
        ("failed", "FAILED"),
        ("diverged", "FAILED"),
        ("interrupted", "KILLED"),
    ],
)
def test_every_end_has_its_status(store, client, folder, state, status):
    run_id = start_run(store, folder)
    store.finish(run_id, folder, state=state, reason="because")
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags["hmoe.state"]) == (status, state)
    assert run.data.tags["hmoe.reason"] == "because"


def test_params_that_matter_are_found_in_the_config(store, client, folder):
    run_id = start_run(store, folder)
    (folder / "config.yaml").write_text(
        "balance: {terms: {switch: {weight: 0.1}, z: {weight: [1, 2]}}, bias: null}\n"
        "tree: {spec: {a: 2, b: 3}}\nmodel: {depth: 2, ffn: {depth: 9}}\n"
    )
    store.finish(run_id, folder, state="failed")
    assert client.get_run(run_id).data.params == {
        "balance.terms.switch.weight": "0.1",
        "balance.terms.z.weight": "[1, 2]",
        "tree.spec": '{"a": 2, "b": 3}',
        "model.depth": "2",
    }


def test_an_unknown_state_is_refused_with_the_nearest(store, folder):
    with pytest.raises(ConfigError, match="Did you mean 'complete'"):
        store.finish(start_run(store, folder), folder, state="completed")


def test_secrets_reach_neither_database_nor_artifacts(store, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hunter2-hunter2")
    parent = start_study(store, command="hmoe sweep data.password=hunter2-a")
    run_id = start_run(store, folder, parent=parent, command="hmoe train x=hunter2-hunter2")
    (folder / "config.yaml").write_text("a: {auth_token: hunter2-b}\nb: ${oc.env:hunter2}\n")
    write_result(
        folder, command="hmoe train data.secret=hunter2-c", versions={"x": "hunter2-hunter2"}
    )
    store.finish(run_id, folder, state="failed", reason="no login with password=hunter2-d")
    for path in [store.runs / "mlflow.db", *(store.runs / "mlartifacts").rglob("*")]:
        assert path.is_dir() or b"hunter2" not in path.read_bytes(), path


def test_a_damaged_result_is_named(store, folder):
    (folder / "result.json").write_text("{")
    with pytest.raises(DataError, match=r"result\.json is not JSON"):
        store.finish(start_run(store, folder), folder, state="complete")


def test_the_answer_marks_children_and_keeps_the_report(store, client, tmp_path):
    parent = start_study(store)
    ids = [start_run(store, store.runs / "s" / str(i), parent=parent) for i in range(2)]
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.html").write_text("<p>")
    store.set_answer(
        parent, note="So it is.", pareto=[ids[1]], means={"val/loss/flat": 1.5}, report=report
    )
    assert client.get_run(parent).data.tags["mlflow.note.content"] == "So it is."
    assert client.get_run(parent).data.metrics == {"answer/val/loss/flat": 1.5}
    assert [client.get_run(i).data.tags["hmoe.pareto"] for i in ids] == ["false", "true"]
    place = store.runs / "mlartifacts" / "s" / parent / "artifacts" / "report"
    assert (place / "report.html").read_text() == "<p>"


def test_orphans_are_closed_and_nothing_stays_running(store, client):
    parent = start_study(store)
    lost, done, kept = (store.runs / "s" / name for name in ("lost", "done", "kept"))
    runs = {path.name: start_run(store, path, parent=parent) for path in (lost, done, kept)}
    store.finish(runs["kept"], kept, state="pruned")
    write_events(lost, [event(1, a=1)])
    write_result(done)
    other = store.start_run(
        store.runs / "o", study="other", kind="train", name="o", arm="", seed=0, command="c"
    )

    assert set(store.close_orphans("s")) == {parent, runs["lost"], runs["done"]}
    assert client.get_run(other).info.status == "RUNNING"
    assert store.close_orphans() == [other]

    found = {name: client.get_run(run_id) for name, run_id in runs.items()}
    states = {name: (r.info.status, r.data.tags["hmoe.state"]) for name, r in found.items()}
    assert states == {
        "lost": ("KILLED", "interrupted"),
        "done": ("FINISHED", "complete"),
        "kept": ("FINISHED", "pruned"),
    }
    assert found["lost"].data.metrics == {"a": 1.0}
    assert client.get_run(parent).data.tags["hmoe.state"] == "interrupted"
    everything = client.search_runs(["0", "1", "2"], run_view_type=ViewType.ALL)
    assert "RUNNING" not in {run.info.status for run in everything}
