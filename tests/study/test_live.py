"""What the terminal shows of a study, on recording consoles."""

import io
import os
import subprocess
import sys
import time

import pytest
from rich.console import Console

from hmoe.study import ProgressDisplay, Standings, live, load_sweep, plan_arms, show_status
from hmoe.study.live import standing_view
from hmoe.study.runner import Progress
from hmoe.study.search import Search
from hmoe.study.standing import ArmStanding, Standing, is_owned
from tests.study.test_standing import plan_in, write_events, write_result
from tests.tiny import sweep_overrides
from tests.tracking.fake import empty_store

CONFIRM = "confirm={margins:{val/loss:0.1}}"
STANDING = Standing(
    kind="trial",
    arms=[
        ArmStanding("dense", {"complete": 3, "pruned": 1}, {"val/loss": 1.5}, []),
        ArmStanding(
            "two_level",
            {"complete": 2, "running": 1, "waiting": 1},
            {"val/loss": 1.25, "val/load/cv/expert": 0.3},
            [0.1, 0.3],
        ),
    ],
    under_way=[("two_level/trial_002", 15, 20)],
    done_steps=115,
    total_steps=160,
    seconds_left=3661.4,
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return plan_in(tmp_path_factory.mktemp("runs"))


def shown(view, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text()


def rows(text):
    return [line.split() for line in text.splitlines()]


def test_a_standing_is_told_within_80_characters():
    told = rows(shown(standing_view(STANDING)))
    assert ["arm", "complete", "pruned", "running", "loss", "load/cv/expert", "by", "level"] in told
    assert ["dense", "3/4", "1", "0", "1.5", "-", "-"] in told
    assert ["two_level", "2/4", "0", "1", "1.25", "0.3", "0.10", "0.30"] in told
    assert ["two_level/trial_002:", "step", "15", "of", "20"] in told
    assert told[-1][1:] == ["72%", "trials", "6/8,", "about", "1:01:01", "left"]


@pytest.fixture
def display(plan, tmp_path):
    def make(*, terminal):
        console = Console(
            width=80,
            force_terminal=terminal,
            force_interactive=terminal,
            record=True,
            file=io.StringIO(),
        )
        return console, ProgressDisplay(console, Standings("trial", *plan, tmp_path))

    return make


def test_a_pipe_gets_a_line_for_each_job_that_has_ended_and_no_more(display):
    console, progress = display(terminal=False)
    with progress.live():
        for message in ("", "", "tree trial 1: val/loss 1.5", ""):
            progress.show(Progress(message, {"tree/trial_000": "running"}))
    assert console.export_text() == "tree trial 1: val/loss 1.5\n"


def test_a_terminal_keeps_the_standing_below_the_lines(display, tmp_path):
    console, progress = display(terminal=True)
    with progress.live():
        progress.show(Progress("", {"tree/trial_000": "running"}))
        write_result(tmp_path / "tree/trial_000", 1.0, val_loss=1.5, val_load_cv_expert=0.25)
        progress.show(Progress("tree trial 1: val/loss 1.5", {"tree/trial_000": "complete"}))
    told = console.export_text()  # all that was ever drawn: what moves the cursor is no text
    line, last = told.index("tree trial 1: val/loss 1.5"), told.rindex("trials 1/1")
    assert told.index("trials 0/1") < line < last
    assert ["tree", "1/1", "1.5", "0.25", "-"] in rows(told[line:])
    assert told.rindex("trials 0/1") < last


def test_watching_a_pipe_tells_each_change_once_and_ends_with_the_study(
    plan,
    tmp_path,
    monkeypatch,
):
    sweep, arms = plan
    folder = tmp_path / sweep.name
    folder.mkdir()
    (folder / "owner").write_text(str(os.getpid()))
    search = Search(*plan, tmp_path)
    jobs = [search.ask() for _ in range(4)]

    def work(_seconds):
        """What the owner does while the watcher sleeps."""
        job = jobs.pop(0)
        values = dict.fromkeys(job.arm.objectives, 0.25)
        named = {metric.replace("/", "_"): value for metric, value in values.items()}
        write_result(folder / job.place, 1.0, **named)
        search.tell(job, values)

    monkeypatch.setattr(live.time, "sleep", work)  # and if it went on, there were no job to pop
    console = Console(width=80, record=True, file=io.StringIO())
    show_status(console, sweep, arms, tmp_path, watch=True)
    told = console.export_text()
    places = [f"{arm}/trial_00{slot}" for slot in (0, 1) for arm in ("dense", "tree")]
    assert [line for line in told.splitlines() if line.endswith(": complete")] == [
        f"{place}: complete" for place in places
    ]
    assert told.count("trials 4/4") == 1
    assert "Nothing runs" not in told
    assert "running" not in told


def test_a_study_whose_owner_is_gone_runs_nothing(plan, tmp_path):
    sweep, arms = plan
    search = Search(*plan, tmp_path)
    job = search.ask()
    write_events(tmp_path / sweep.name / job.place, (1, 1.0), (5, 5.0))
    console = Console(width=80, record=True, file=io.StringIO())
    show_status(console, sweep, arms, tmp_path, watch=True)
    told = console.export_text()
    assert "step 5" not in told
    assert f"Nothing runs. Go on with `hmoe sweep sweep={sweep.name}`." in told


def test_a_planned_confirmation_is_waited_for_until_it_is_chosen(plan, tmp_path):
    sweep, arms = plan
    ended = {"tree/trial_000": "complete"}
    assert not live._Watcher(sweep, arms, tmp_path).expects(ended)
    confirm = load_sweep("hierarchy", [*sweep_overrides(tmp_path)[1:], CONFIRM])
    watcher = live._Watcher(confirm, arms, tmp_path)
    assert watcher.expects(ended)
    (tmp_path / confirm.name / "confirm").mkdir(parents=True)
    (tmp_path / confirm.name / "confirm/chosen.json").write_text('{"arms": {}}')
    assert not watcher.expects(ended)


@pytest.mark.slow
def test_a_real_sweep_is_followed_from_beside_it(tmp_path):
    """One process trains the tiny sweep; this one looks on and ends with it."""
    empty_store(tmp_path)
    overrides = sweep_overrides(tmp_path)
    command = [sys.executable, "-m", "hmoe.cli", "sweep", *overrides, "probe=false"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    sweep = load_sweep("hierarchy", overrides[1:])
    arms, folder = plan_arms(sweep), tmp_path / sweep.name
    while process.poll() is None and not is_owned(folder):
        time.sleep(0.1)
    console = Console(width=80, record=True, file=io.StringIO())
    show_status(console, sweep, arms, tmp_path, watch=True)
    lines = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 0
    assert rows(console.export_text())[-1][1:] == ["100%", "trials", "4/4"]
    assert sum(line.startswith(("dense trial", "tree trial")) for line in lines) == 4
    assert not any("\x1b" in line for line in lines), "a pipe is not drawn on"
