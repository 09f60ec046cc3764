"""The runner: every planned trial ends once, whatever dies on the way, and both stores say so.

Children are real; the kills of whole commands are in tests/slow.
"""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hmoe.errors import ConfigError
from hmoe.study import SweepInterruptedError, load_sweep, plan_arms, run_sweep
from hmoe.study.runner import Progress, Work
from hmoe.study.search import Search, place_of
from hmoe.tracking import Store
from hmoe.training import held
from tests.stores import (
    assert_every_slot_ended_once,
    assert_nothing_runs,
    mlflow_runs,
    optuna_trials,
)
from tests.tiny import Killed, sweep_overrides, train_in
from tests.tracking.fake import empty_store

SLOTS = {"dense": 2, "tree": 2}
ONE_ARM = ("arms={tree:{overrides:['tree.spec=[2,2]']}}", "budget.trials=1", "workers=1")
CONFIRM = "confirm={margins:{val/loss:0.1}}"
LONG = 400


def sweep_in(runs: Path, *changes: str, steps: int = 20) -> list[Progress]:
    """Run the tiny sweep in this process; returns what it showed."""
    if not (runs / "mlflow.db").exists():
        empty_store(runs)
    sweep = load_sweep("hierarchy", sweep_overrides(runs, *changes, steps=steps)[1:])
    shown: list[Progress] = []
    run_sweep(sweep, plan_arms(sweep), runs, command="hmoe sweep it", show=shown.append)
    return shown


def ended(progress: Progress) -> int:
    return sum(state not in ("waiting", "running") for state in progress.states.values())


def results(runs: Path) -> dict[str, dict]:
    """Every result.json by arm and folder."""
    return {
        str(file.parent.relative_to(runs / "tiny")): json.loads(file.read_text())
        for file in (runs / "tiny").glob("*/*/result.json")
    }


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch, act: Callable[[Work], bool]) -> Iterator[list[Work]]:
    """Call `act` on every start of a child, in a thread and again and again until it is true."""
    start, started, threads = Work.start, [], []

    def noted(self: Work) -> None:
        start(self)
        started.append(self)

        def until() -> None:
            while not act(self):
                time.sleep(0.01)

        threads.append(threading.Thread(target=until))
        threads[-1].start()

    with monkeypatch.context() as patch:
        patch.setattr(Work, "start", noted)
        yield started
        for thread in threads:
            thread.join(timeout=60)


def kill_once_saved(work: Work) -> bool:
    """Kill the child as soon as it has a checkpoint."""
    if saved := work.newest_checkpoint():
        os.kill(work.child.process.pid, signal.SIGKILL)
    return bool(saved)


# ------------------------------------------------------------------- undisturbed


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, list[Progress]]:
    """A finished sweep with two workers, and what it showed."""
    runs = tmp_path_factory.mktemp("sweep") / "runs"
    return runs, sweep_in(runs, CONFIRM)


def test_every_planned_trial_ends_once_in_both_stores(done):
    assert_every_slot_ended_once(done[0], "tiny", SLOTS)
    assert set(results(done[0])) == {f"{arm}/trial_00{slot}" for arm in SLOTS for slot in (0, 1)}


def test_a_trial_is_the_run_that_its_command_gives(done, tmp_path):
    result = results(done[0])["tree/trial_001"]
    assert result["command"].startswith("hmoe train data=digits model=mlp")
    assert re.search(r"optim\.lr=\S+ .*seed=1 test=false$", result["command"])
    overrides = result["command"].split()[2:]
    again = train_in(tmp_path / "run", *(text.strip("'") for text in overrides))
    assert again["metrics"] == result["metrics"]


def test_objectives_arms_and_settings_are_in_mlflow(done):
    parent, children = mlflow_runs(done[0], "tiny")
    assert json.loads(parent.data.tags["hmoe.arms"]) == ["dense", "tree"]
    assert parent.data.tags["hmoe.command"] == "hmoe sweep it"
    by_name = {run.info.run_name: run for run in children}
    result = results(done[0])["tree/trial_000"]
    run = by_name["tree/trial_000"]
    assert run.data.metrics["final/val/loss"] == result["metrics"]["val/loss"]
    assert run.data.metrics["val/load/cv/expert"] == result["metrics"]["val/load/cv/expert"]
    assert json.loads(run.data.tags["hmoe.swept"]) == [
        "balance.terms.switch.weight",
        "optim.lr",
    ]
    drawn = {name: run.data.params["optim.lr"] for name, run in by_name.items()}
    first, second = ([drawn[f"{arm}/trial_00{i}"] for arm in ("dense", "tree")] for i in (0, 1))
    assert first[0] == first[1] != second[0] == second[1]


def test_progress_counts_up_to_all_trials(done):
    shown = done[1]
    counts = [ended(progress) for progress in shown]
    assert counts == sorted(counts)
    assert shown[-1].states == dict.fromkeys(
        ["dense/trial_000", "dense/trial_001", "tree/trial_000", "tree/trial_001"], "complete"
    )
    messages = sorted(progress.message for progress in shown if progress.message)
    assert [message.partition(" (")[0] for message in messages] == [
        *("dense/trial_000", "dense/trial_001", "tree/trial_000", "tree/trial_001")
    ]
    assert re.search(r"val/loss 1\.\d+, val/load/cv/expert 0\.\d+$", messages[-1])


def test_a_finished_sweep_is_left_as_it_is(done, monkeypatch):
    runs, _ = done
    ids = {run.info.run_id for run in mlflow_runs(runs, "tiny")[1]}
    monkeypatch.setattr(Work, "start", None)
    sweep_in(runs, CONFIRM)
    assert_every_slot_ended_once(runs, "tiny", SLOTS)
    assert {run.info.run_id for run in mlflow_runs(runs, "tiny")[1]} == ids


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_share_the_cores(workers, tmp_path):
    """As the children say it, however many threads this process has."""
    sweep_in(
        tmp_path, *ONE_ARM, f"workers={workers}", "trainer.threads=null", "balance=switch", steps=2
    )
    (result,) = results(tmp_path).values()
    assert result["threads"] == max(1, os.cpu_count() // workers)


# ------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("space=['optim.lr=interval(1e-3, 1e-2)']", r"space: \+ optim\.lr=interval"),
        ("objectives=[val/loss]", r"objectives: - val/load/cv/expert"),
        ("contract.tolerance=0.09", r"contract\.tolerance: 0\.1 -> 0\.09"),
        ("seed=1", r"seed: 0 -> 1"),
        ("data.batch_size=32", r"overrides: \+ data\.batch_size=32"),
        ("search={bounds:{val/loss:2.5}}", r"search\.bounds.val/loss: \(absent\) -> 2\.5"),
        ("confirm={margins:{val/loss:0.2}}", r"confirm\.margins.val/loss: 0\.1 -> 0\.2"),
        ("confirm={margins:{val/loss:0.1},alpha:0.01}", r"confirm\.alpha: 0\.05 -> 0\.01"),
        ("confirm={margins:{val/loss:0.1},arms:[tree]}", r"confirm\.arms: null -> \['?tree"),
        ("confirm=null", r"confirm\.margins.val/loss: 0\.1 -> \(absent\)"),
    ],
)
def test_another_plan_under_the_same_name_is_refused_with_the_difference(done, change, line):
    with pytest.raises(ConfigError, match=f"(?s)under another plan:\n.*{line}"):
        sweep_in(done[0], CONFIRM, change)
    assert_every_slot_ended_once(done[0], "tiny", SLOTS)


@pytest.mark.parametrize(
    ("objectives", "told"),
    [
        ("[val/bits_per_byte]", r"arm 'dense': objectives: val/bits_per_byte is nothing that this"),
        ("[val/loss,val/load/cv/level_2]", r"arm 'tree': .*level_2 .*Did you mean '\S+level_1'"),
        ("[val/load/cv/expert]", r"arm 'dense': objectives: val/load/cv/expert is nothing"),
    ],
)
def test_an_objective_that_an_arm_does_not_tell_is_refused_before_any_work(
    objectives, told, tmp_path
):
    with pytest.raises(ConfigError, match=told):
        sweep_in(tmp_path / "runs", f"objectives={objectives}")
    assert not (tmp_path / "runs" / "tiny").exists()


def test_a_second_start_is_told_that_the_first_runs(done):
    runs, _ = done
    told = rf"sweep=tiny: .*in use by process {os.getpid()}"
    with held(runs / "tiny", "it", "busy"), pytest.raises(ConfigError, match=told):
        sweep_in(runs, CONFIRM)
    assert_every_slot_ended_once(runs, "tiny", SLOTS)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    sweep = load_sweep("hierarchy", sweep_overrides(tmp_path)[1:])
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        run_sweep(sweep, plan_arms(sweep), tmp_path / "file", command="", show=print)


# ------------------------------------------------------------------- trials that fail


def test_a_trial_that_fails_is_told_with_its_reason_and_the_sweep_goes_on(tmp_path):
    """Whether the child refuses what was drawn, or it does not even compose for an arm."""
    shown = sweep_in(
        tmp_path,
        "space=['data.batch_size=choice(64, 5000)','selection=choice(top_k, descend)']",
        "arms={dense:{overrides:['model=mlp_dense','balance=none'],dial:experts.hidden_dim},"
        "tree:{overrides:['tree.spec=[2,2]','selection.weights=probs','selection.beam=1']}}",
        "budget.trials=8",
    )
    reasons = {(t.arm, t.slot): t.reason for t in optuna_trials(tmp_path)}
    failed = {key: reason for key, reason in reasons.items() if reason}
    assert_every_slot_ended_once(tmp_path, "tiny", {"dense": 4, "tree": 4}, failed=len(failed))
    assert 0 < len(failed) < 8
    # A dense arm has no selection: what was drawn for one is not among its settings.
    dense = [reason for (arm, _), reason in reasons.items() if arm == "dense"]
    assert all("batch_size=5000" in reason for reason in dense if reason)
    assert any("batch_size=5000: must be at most" in reason for reason in failed.values())
    assert any("selection.beam=1: no such key" in reason for reason in failed.values())
    _, children = mlflow_runs(tmp_path, "tiny")
    told = {run.info.run_name: run.data.tags.get("hmoe.reason", "") for run in children}
    assert told == {place_of(arm, slot): reason for (arm, slot), reason in reasons.items()}
    assert ended(shown[-1]) == 8


def test_a_diverged_trial_fails_with_its_reason(tmp_path):
    sweep_in(tmp_path, *ONE_ARM, "space=['optim.lr=interval(1e29, 1e30)']", "when={}")
    assert_every_slot_ended_once(tmp_path, "tiny", {"tree": 1}, failed=1)
    (trial,) = optuna_trials(tmp_path)
    assert re.match(r"train/loss is nan at step \d+", trial.reason)
    (run,) = mlflow_runs(tmp_path, "tiny")[1]
    assert run.data.tags["hmoe.state"] == "diverged"
    assert run.data.tags["hmoe.reason"] == trial.reason


# ------------------------------------------------------------------- children that are lost


@pytest.mark.slow
def test_a_killed_trial_goes_on_from_its_checkpoint_and_ends_as_if_never_killed(
    tmp_path, monkeypatch
):
    with watched(monkeypatch, lambda work: work.lost_at is not None or kill_once_saved(work)):
        shown = sweep_in(tmp_path, *ONE_ARM, steps=LONG)
    assert_every_slot_ended_once(tmp_path, "tiny", {"tree": 1})
    assert any("(exit status -9); going on from its last" in p.message for p in shown)
    result = results(tmp_path)["tree/trial_000"]
    assert result["resumed_from"] is not None
    overrides = (text.strip("'") for text in result["command"].split()[2:])
    assert train_in(tmp_path / "undisturbed", *overrides)["metrics"] == result["metrics"]


def test_a_trial_killed_twice_at_the_same_step_fails(tmp_path, monkeypatch):
    def kill(work: Work) -> bool:
        os.kill(work.child.process.pid, signal.SIGKILL)
        return True

    with watched(monkeypatch, kill) as started:
        sweep_in(tmp_path, *ONE_ARM)
    assert len(started) == 2
    (trial,) = optuna_trials(tmp_path)
    assert trial.reason == "its process was lost (exit status -9), twice at the same step"
    assert_every_slot_ended_once(tmp_path, "tiny", {"tree": 1}, failed=1)


@pytest.mark.slow
def test_children_end_when_the_fork_server_is_killed_and_the_trial_goes_on(tmp_path, monkeypatch):
    """Without the server the parent cannot see how a child ends: two would train in one folder."""
    from multiprocessing import forkserver

    pids = []

    def kill_server(work: Work) -> bool:
        pids.append(work.child.process.pid)
        if work.lost_at is None and work.newest_checkpoint():
            os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
            return True
        return work.lost_at is not None

    with watched(monkeypatch, kill_server):
        sweep_in(tmp_path, *ONE_ARM, steps=LONG)
    assert_every_slot_ended_once(tmp_path, "tiny", {"tree": 1})
    assert results(tmp_path)["tree/trial_000"]["resumed_from"] is not None
    assert len(set(pids)) == 2
    assert not [pid for pid in set(pids) if Path(f"/proc/{pid}").exists()]


# ------------------------------------------------------------------- owners that stop


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_stops_the_sweep_leaves_nothing_running_and_the_same_command_goes_on(
    number, tmp_path, monkeypatch
):
    def interrupt(work: Work) -> bool:
        if saved := work.newest_checkpoint():
            os.kill(os.getpid(), number)
        return bool(saved)

    before = signal.getsignal(number)
    stopped = pytest.raises(SweepInterruptedError, match=r"^stopped; go on with: hmoe sweep it$")
    with watched(monkeypatch, interrupt) as started, stopped:
        sweep_in(tmp_path, *ONE_ARM, steps=LONG)
    assert signal.getsignal(number) is before
    assert not any(work.child.running() for work in started)
    assert_nothing_runs(tmp_path, "tiny")
    parent, (child,) = mlflow_runs(tmp_path, "tiny")
    assert (parent.info.status, child.info.status) == ("KILLED", "KILLED")
    sweep_in(tmp_path, *ONE_ARM, steps=LONG)
    assert_every_slot_ended_once(tmp_path, "tiny", {"tree": 1})
    assert results(tmp_path)["tree/trial_000"]["resumed_from"] is not None
    assert mlflow_runs(tmp_path, "tiny")[1][0].info.run_id == child.info.run_id


def test_a_signal_while_a_trial_is_being_told_does_not_tear_it(tmp_path, monkeypatch):
    """The trial counts as ended or as interrupted, never as both."""
    tell = Search.tell

    def signalled(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        tell(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "tell", signalled)
        with pytest.raises(SweepInterruptedError):
            sweep_in(tmp_path, *ONE_ARM)
    assert [(t.slot, t.state, t.reason) for t in optuna_trials(tmp_path)] == [(0, "COMPLETE", "")]
    sweep_in(tmp_path, *ONE_ARM)
    assert_every_slot_ended_once(tmp_path, "tiny", {"tree": 1})


def sweep_killed_in(place: tuple[type, str], runs: Path, *, after: bool) -> None:
    """Run the sweep until it comes to a method, and let none of the cleaning up happen."""
    method = getattr(*place)

    def deadly(*args, **kwargs):
        raise Killed

    def late(*args, **kwargs):
        method(*args, **kwargs)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        for cleaning in ((Search, "interrupt"), (Store, "finish_study")):
            patch.setattr(*cleaning, deadly)
        patch.setattr(*place, late if after else deadly)
        with pytest.raises(Killed):
            sweep_in(runs, *ONE_ARM)


@pytest.mark.parametrize(
    ("place", "after"),
    [
        ((Search, "tell"), False),  # the result is there, MLflow knows it, Optuna does not
        pytest.param((Store, "finish"), False, marks=pytest.mark.slow),
        pytest.param((Search, "tell"), True, marks=pytest.mark.slow),
    ],
)
def test_an_owner_killed_after_a_trial_has_finished_only_tells_it(
    place, after, tmp_path, monkeypatch
):
    sweep_killed_in(place, tmp_path, after=after)
    assert results(tmp_path).keys() == {"tree/trial_000"}
    monkeypatch.setattr(Work, "start", None)  # nothing is trained again
    sweep_in(tmp_path, *ONE_ARM)
    assert_every_slot_ended_once(tmp_path, "tiny", {"tree": 1})


@pytest.mark.parametrize(
    "place",
    [
        (Store, "start_run"),  # MLflow has a run of the folder, which holds nothing else yet
        pytest.param((Store, "start_study"), marks=pytest.mark.slow),
        pytest.param((Search, "ask"), marks=pytest.mark.slow),
    ],
)
def test_an_owner_killed_before_a_trial_has_begun_starts_it_once(place, tmp_path):
    sweep_killed_in(place, tmp_path, after=True)
    sweep_in(tmp_path, *ONE_ARM)
    assert_every_slot_ended_once(tmp_path, "tiny", {"tree": 1})
