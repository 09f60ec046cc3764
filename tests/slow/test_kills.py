"""Kills of the real `hmoe sweep`: whatever dies whenever, the same command ends as if nothing had.

All runs are compared, number by number, with a sweep that was left alone.
"""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.slow.command import Command, saved, until
from tests.stores import assert_every_slot_ended_once, assert_nothing_runs, optuna_trials

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SLOTS = {"dense": 2, "tree": 2}
FOLDERS = [f"{arm}/trial_00{slot}" for arm in SLOTS for slot in range(2)]


def two_trials_have_saved(command: Command) -> bool:
    folders = command.trials().values()
    return len(folders) == 2 and all(map(saved, folders))


def results(runs: Path) -> dict[str, dict]:
    """Of every trial what it drew and its numbers."""
    found = {}
    for name in FOLDERS:
        result = json.loads((runs / "tiny" / name / "result.json").read_text())
        found[name] = {key: result[key] for key in ("state", "metrics", "command", "level_loads")}
        found[name]["command"] = result["command"].replace(str(runs), "")
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the sweep ends with when it is left alone."""
    command = Command(tmp_path_factory.mktemp("undisturbed") / "runs")
    said = command.wait(0)
    assert "report:" in said
    assert_every_slot_ended_once(command.runs, "tiny", SLOTS)
    return results(command.runs)


def goes_on_and_ends_alike(runs: Path, undisturbed: dict) -> None:
    """The same command completes the sweep."""
    command = Command(runs)
    said = command.wait(0)
    assert "report:" in said
    assert "Traceback" not in said
    assert_every_slot_ended_once(runs, "tiny", SLOTS)
    assert results(runs) == undisturbed


def test_a_killed_trial_goes_on_and_completes(undisturbed, tmp_path):
    command = Command(tmp_path / "runs")
    until(lambda: two_trials_have_saved(command))
    pid, folder = next(iter(command.trials().items()))
    os.kill(pid, signal.SIGKILL)
    said = command.wait(0)
    assert "its process was lost (exit status -9); going on from its last checkpoint" in said
    assert json.loads((folder / "result.json").read_text())["resumed_from"]
    assert_every_slot_ended_once(command.runs, "tiny", SLOTS)
    assert results(command.runs) == undisturbed


def test_children_of_a_killed_parent_end_and_the_same_command_goes_on(undisturbed, tmp_path):
    command = Command(tmp_path / "runs")
    until(lambda: two_trials_have_saved(command))
    folders = command.trials().values()
    assert len(command.pids()) >= 4  # the command, the server, two trials
    command.process.kill()
    command.process.wait()
    command.nothing_is_left(seconds=5)
    assert {trial.state for trial in optuna_trials(command.runs)} == {"RUNNING"}
    goes_on_and_ends_alike(command.runs, undisturbed)
    resumed = [json.loads((f / "result.json").read_text())["resumed_from"] for f in folders]
    assert all(resumed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whole_group", [True, False])
def test_a_signal_ends_it_in_order_and_the_same_command_goes_on(
    number, whole_group, undisturbed, tmp_path
):
    """Ctrl-C reaches every process of the terminal; a supervisor may signal the first alone."""
    command = Command(tmp_path / "runs")
    until(lambda: two_trials_have_saved(command))
    (os.killpg if whole_group else os.kill)(command.process.pid, number)
    said = command.wait(130, seconds=10)
    assert_nothing_runs(command.runs, "tiny")
    assert "Traceback" not in said
    again = re.search(r"hmoe sweep: stopped; go on with: (hmoe sweep .*)", said)[1]
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {again}"], capture_output=True, text=True, check=True
    ).stdout
    assert words.splitlines() == ["hmoe", *command.argv]
    goes_on_and_ends_alike(command.runs, undisturbed)


@pytest.mark.parametrize("after_s", [1, 3, 5, 6, 7, 8, 9, 11])
def test_ctrl_c_at_any_moment_ends_in_order(after_s, tmp_path):
    """While it imports, plans, opens its stores, loads the server, starts children, trains."""
    command = Command(tmp_path / "runs")
    time.sleep(after_s)
    os.killpg(command.process.pid, signal.SIGINT)
    status = command.process.wait(timeout=30)
    command.nothing_is_left()
    # Before its own first line, Python itself answers.
    assert status == 130 or after_s == 1
    if status == 130:
        assert "Traceback" not in command.said()
    if (command.runs / "tiny" / "registration.json").exists():
        assert_nothing_runs(command.runs, "tiny")


def test_a_second_start_is_told_that_the_first_runs(undisturbed, tmp_path):
    first = Command(tmp_path / "runs")
    until(first.trials)
    second = Command(tmp_path / "runs")
    said = second.wait(2)
    assert f"in use by process {first.process.pid}: wait for it" in said
    assert first.wait(0)
    assert_every_slot_ended_once(first.runs, "tiny", SLOTS)
    assert results(first.runs) == undisturbed


def test_the_server_may_be_killed(undisturbed, tmp_path):
    command = Command(tmp_path / "runs")
    until(lambda: two_trials_have_saved(command))
    os.kill(command.server(), signal.SIGKILL)
    command.wait(0)
    assert_every_slot_ended_once(command.runs, "tiny", SLOTS)
    assert results(command.runs) == undisturbed
