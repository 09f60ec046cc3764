"""Two workers, killed and started again at random: the report is that of a sweep left alone.

Each arm has fewer trials than the ten that TPE draws at random, so that what a slot draws rests on
its number alone. After them it rests on the trials that have ended before, and with two workers,
killed or not, on which of two ends first.
"""

import json
import os
import random
import signal
import time
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from hmoe.report import tables
from hmoe.report.contract import contract_check
from hmoe.report.verdicts import pair_rows
from hmoe.tracking import Run, Study, read_study
from tests.slow.command import Command, saved
from tests.stores import assert_every_slot_ended_once, mlflow_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SLOTS = {"dense": 4, "tree": 4}
SEEDS = (1000, 1001)
CHANGES = (
    "budget.trials=8",
    "confirm={seeds:2,margins:{val/loss:0.1}}",
    "trainer.max_steps=1600",
    "trainer.val_every=400",
    "trainer.checkpoint_every=50",
)
ROWS = (
    tables.arm_rows,
    tables.balance_rows,
    tables.end_rows,
    tables.load_rows,
    tables.pareto_front,
    contract_check,
    pair_rows,
)
SECONDS = 120


def run_to_the_end(runs: Path) -> None:
    """The search and what confirms it: a sweep that plans a confirmation goes on to it."""
    said = Command(runs, *CHANGES).wait(0, seconds=500)
    assert "report:" in said
    assert "Traceback" not in said


def ended_once(runs: Path) -> None:
    """Every planned trial and every planned run of the confirmation, in all that keeps them."""
    assert_every_slot_ended_once(runs, "tiny", SLOTS)
    _, children = mlflow_runs(runs, "tiny")
    confirmed = [run for run in children if run.data.tags["hmoe.kind"] == "confirm"]
    planned = sorted(f"confirm/{arm}/seed_{seed}" for arm in SLOTS for seed in SEEDS)
    assert sorted(run.info.run_name for run in confirmed) == planned
    assert {run.data.tags["hmoe.state"] for run in confirmed} == {"complete"}
    ended = json.loads((runs / "tiny" / "confirm" / "ended.json").read_text())
    assert ended == {f"confirm/{arm}/seed_{seed}": "" for arm in SLOTS for seed in SEEDS}


def plain(value: Any, runs: Path) -> Any:
    """Rows of a report without times, with runs in an order of their own."""
    if isinstance(value, Run):
        kept = (
            "name",
            "kind",
            "arm",
            "seed",
            "state",
            "tree",
            "params",
            "swept",
            "metrics",
            "cost",
        )
        found = {key: plain(getattr(value, key), runs) for key in (*kept, "level_loads")}
        return found | {"command": value.command.replace(str(runs), "RUNS")}
    if isinstance(value, dict):
        timed = ("seconds", "cost/seconds", "time/steps_per_s")
        return {key: plain(x, runs) for key, x in value.items() if key not in timed}
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name), runs) for field in fields(value)}
    if isinstance(value, list | tuple):
        return [plain(item, runs) for item in value]
    return value


def report(runs: Path) -> dict[str, Any]:
    """All that the tables of the report hold, and every run of the study by name."""
    study: Study = read_study(runs, "tiny")
    rows = {table.__name__: plain(table(study), runs) for table in ROWS}
    rows["runs"] = sorted(plain(study.runs, runs), key=lambda run: run["name"])
    return rows | {"deviations": json.loads(study.tags["hmoe.deviations"])}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, Any]:
    """The report of a sweep and its confirmation that were left alone."""
    runs = tmp_path_factory.mktemp("undisturbed") / "runs"
    run_to_the_end(runs)
    ended_once(runs)
    return report(runs)


@pytest.mark.parametrize("seed", [0])
def test_kills_at_random_change_nothing_in_the_report(seed, undisturbed, tmp_path):
    """SIGKILL for the parent, for a trial, for the server that forks them, for all at once."""
    draw, runs = random.Random(seed), tmp_path / "runs"
    deeds: list[str] = []
    end, status = time.monotonic() + SECONDS, None
    while status != 0 and time.monotonic() < end:
        command = Command(runs, *CHANGES)
        killed_at: dict[Path, str] = {}
        while command.process.poll() is None:
            time.sleep(draw.uniform(0.5, 8))
            deed = draw.choice(["trial", "trial", "trial", "server", "parent", "all"])
            if command.process.poll() is not None:
                break
            if deed == "parent" or time.monotonic() > end:
                command.process.kill()
            elif deed == "all":
                os.killpg(command.process.pid, signal.SIGKILL)
            elif not kill_children(command, deed, killed_at):
                continue
            deeds.append(deed)
            if deed in ("parent", "all"):
                command.process.wait(timeout=30)
        status = command.process.wait(timeout=30)
        command.nothing_is_left()
        assert status in (0, -signal.SIGKILL), command.said()
    print(len(deeds), "kills:", *deeds)
    assert len(deeds) > 5
    run_to_the_end(runs)
    ended_once(runs)
    assert report(runs) == undisturbed


def kill_children(command: Command, deed: str, killed_at: dict[Path, str]) -> bool:
    """Kill a trial, or the server and all trials with it. Returns whether there was one to kill.

    Lost twice at one step, a trial fails, and rightly so: that is not tried here.
    """
    trials = command.trials()
    lucky = {
        pid: folder for pid, folder in trials.items() if killed_at.get(folder) != saved(folder)
    }
    if deed == "server":
        if not trials or len(lucky) < len(trials):
            return False
        killed_at |= {folder: saved(folder) for folder in trials.values()}
        os.kill(command.server(), signal.SIGKILL)
        return True
    for pid, folder in lucky.items():
        killed_at[folder] = saved(folder)
        os.kill(pid, signal.SIGKILL)
        return True
    return False
