"""Following a run: uploaded while it trains, closed as its folder says, whatever became of it."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hmoe.tracking import follow
from tests.tracking.fake import empty_store, event, write_events, write_result

ABOUT = {
    "study": "train",
    "kind": "train",
    "name": "run",
    "arm": "run",
    "seed": 3,
    "command": "hmoe train name=run",
}


@pytest.fixture
def runs(tmp_path):
    return empty_store(tmp_path / "runs").runs


@pytest.fixture
def folder(runs):
    path = runs / "train" / "run"
    path.mkdir(parents=True)
    return path


def tracked(runs):
    """The one run of the experiment, and its client."""
    client = MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")
    experiment = client.get_experiment_by_name("train")
    (run,) = client.search_runs([experiment.experiment_id])
    return run, client


def follow_to_the_end(runs, folder):
    """Follow, in this process, a run whose owner is gone at once."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    writer.close()
    follow._follow(runs, folder, ABOUT, reader)
    return tracked(runs)[0]


@pytest.mark.parametrize(("state", "status"), [("complete", "FINISHED"), ("diverged", "FAILED")])
def test_a_run_with_a_result_is_closed_as_the_result_says(runs, folder, state, status):
    write_events(folder, [event(10, train_loss=2.0)])
    write_result(folder, state=state, reason="because" if state == "diverged" else "")
    run = follow_to_the_end(runs, folder)
    assert (run.info.status, run.data.tags["hmoe.state"]) == (status, state)
    assert run.data.tags.get("hmoe.reason") == (None if state == "complete" else "because")
    assert run.data.metrics["train/loss"] == 2.0
    assert (run.data.tags["hmoe.kind"], run.data.tags["hmoe.seed"]) == ("train", "3")


def test_a_run_that_failed_is_closed_with_its_reason(runs, folder):
    (folder / "failure.json").write_text(json.dumps({"message": "out of memory"}))
    run = follow_to_the_end(runs, folder)
    assert (run.info.status, run.data.tags["hmoe.reason"]) == ("FAILED", "out of memory")


def test_a_run_without_an_end_was_interrupted(runs, folder):
    write_events(folder, [event(10, train_loss=2.0)])
    run = follow_to_the_end(runs, folder)
    assert (run.info.status, run.data.tags["hmoe.state"]) == ("KILLED", "interrupted")


def test_a_run_that_is_gone_on_with_stays_one_run(runs, folder):
    write_events(folder, [event(10, train_loss=2.0)])
    first = follow_to_the_end(runs, folder)
    write_events(folder, [event(20, train_loss=1.0)])
    write_result(folder, reason="")
    second = follow_to_the_end(runs, folder)
    assert second.info.run_id == first.info.run_id
    assert second.info.status == "FINISHED"
    points = tracked(runs)[1].get_metric_history(second.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(10, 2.0), (20, 1.0)]


def test_numbers_are_uploaded_while_the_run_trains(runs, folder, monkeypatch):
    monkeypatch.setattr(follow, "_SECONDS", 0.05)
    reader, writer = multiprocessing.Pipe(duplex=False)
    seen = []

    def train():
        write_events(folder, [event(10, train_loss=2.0)])
        while not seen:
            time.sleep(0.05)
            try:
                run = tracked(runs)[0]
            except (AttributeError, ValueError):
                continue
            if run.data.metrics:
                seen.append((run.info.status, run.data.metrics["train/loss"]))
        write_events(folder, [event(20, train_loss=1.0)])
        writer.close()

    thread = threading.Thread(target=train)
    thread.start()
    follow._follow(runs, folder, ABOUT, reader)
    thread.join()
    assert seen == [("RUNNING", 2.0)]
    assert tracked(runs)[0].data.metrics["train/loss"] == 1.0


def test_a_run_that_cannot_be_tracked_says_so_and_disturbs_nothing(runs, folder, capsys):
    follow_to_the_end(runs, folder)
    _, client = tracked(runs)
    client.delete_experiment(client.get_experiment_by_name("train").experiment_id)
    reader, writer = multiprocessing.Pipe(duplex=False)
    writer.close()
    follow._follow(runs, folder, ABOUT, reader)
    told = capsys.readouterr().err
    assert told.startswith("this run is not in MLflow: study = 'train':")
    assert "Traceback" not in told


OWNER = """
import os, signal, sys, time
from pathlib import Path
from hmoe.tracking import Follower

if __name__ == "__main__":
    runs, folder = Path(sys.argv[1]), Path(sys.argv[2])
    about = dict(study="train", kind="train", name="run", arm="run", seed=3, command="")
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    follower = Follower(runs=runs, folder=folder, about=about)
    time.sleep(0.3)  # its imports take longer: signals must not reach it even now
    os.killpg(0, signal.SIGINT)
    while not (folder / "mlflow_run_id").exists():
        time.sleep(0.1)
    os.killpg(0, signal.SIGTERM)
    if sys.argv[3] == "finish":
        follower.finish()
    else:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["finish", "kill"])
def test_a_follower_closes_the_run_of_its_owner_and_ends(runs, folder, tmp_path, end):
    """Ended or killed, in a group that got Ctrl-C: the run is closed and no process is left."""
    (tmp_path / "owner.py").write_text(OWNER)
    owner = subprocess.Popen(
        [sys.executable, "owner.py", runs, folder, end], cwd=tmp_path, start_new_session=True
    )
    assert owner.wait(timeout=60) == (0 if end == "finish" else -signal.SIGKILL)
    deadline = time.monotonic() + 30
    while tracked(runs)[0].info.status == "RUNNING" or processes_about(folder):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert tracked(runs)[0].info.status == "KILLED"


def processes_about(folder: Path) -> list[str]:
    """Processes that have a file of the runs folder open or work in it."""
    mark = str(folder.parents[1])
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(file) for file in (process / "fd").iterdir()]
        except OSError:
            continue
        if int(process.name) != os.getpid() and any(file.startswith(mark) for file in files):
            found.append(process.name)
    return found
