"""How far a study is, by hand from made run folders: counts, points, loads, steps and time left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hmoe.study import Standings, Sweep, load_sweep, plan_arms
from hmoe.study.contract import PlannedArm
from hmoe.study.search import Search
from hmoe.study.standing import is_owned, steps_done
from tests.tiny import sweep_overrides

BOUNDS = "search.bounds={val/load/cv/expert:0.5}"


def plan_in(runs: Path) -> tuple[Sweep, list[PlannedArm]]:
    """Arms dense and tree, 2 trials each of 20 steps, two workers; at most 0.5 of imbalance."""
    sweep = load_sweep("hierarchy", sweep_overrides(runs, BOUNDS, "workers=2")[1:])
    return sweep, list(plan_arms(sweep))


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> tuple[Sweep, list[PlannedArm]]:
    return plan_in(tmp_path_factory.mktemp("runs"))


def write_result(folder: Path, seconds: float, **metrics: float) -> None:
    """A result; `_` in a metric stands for `/`, but for the one in level_0."""
    named = {k.replace("_", "/").replace("level/", "level_"): v for k, v in metrics.items()}
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(
        json.dumps({"metrics": named, "cost": {"seconds": seconds}})
    )


def write_events(folder: Path, *step_and_time: tuple[int, float]) -> None:
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": s, "time": t, "metrics": {}}) for s, t in step_and_time]
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_counts_points_and_time_left_by_hand(plan, tmp_path):
    load = {"val_load_cv_level_0": 0.1, "val_load_cv_level_1": 0.3, "val_load_cv_expert": 0.3}
    write_result(tmp_path / "dense/trial_000", 40.0, val_loss=1.5)
    write_result(tmp_path / "tree/trial_000", 20.0, val_loss=1.25, **load)
    write_events(tmp_path / "tree/trial_001", (2, 100.0), (15, 113.0))
    standing = Standings("trial", *plan, tmp_path).of(
        {
            "dense/trial_000": "complete",
            "dense/trial_001": "waiting",
            "tree/trial_000": "complete",
            "tree/trial_001": "running",
        }
    )
    dense, tree = standing.arms
    assert dense.counts == {"complete": 1, "waiting": 1}
    assert (dense.values, dense.loads) == ({"val/loss": 1.5}, [])
    assert tree.counts == {"complete": 1, "running": 1}
    assert tree.values == {"val/loss": 1.25, "val/load/cv/expert": 0.3}
    assert tree.loads == [0.1, 0.3]
    assert standing.under_way == [("tree/trial_001", 15, 20)]
    assert (standing.done_steps, standing.total_steps) == (20 + 20 + 15, 80)
    # 20 steps of dense at 2 s and 5 of the tree at 1 s, on two workers.
    assert standing.seconds_left == pytest.approx((40 + 5) / 2)


def test_a_trial_without_an_objective_gives_no_point(plan, tmp_path):
    write_result(tmp_path / "tree/trial_000", 1.0, val_load_cv_expert=0.3)
    (tree,) = Standings("trial", *plan, tmp_path).of({"tree/trial_000": "complete"}).arms
    assert tree.values == {}


def test_the_point_is_the_best_trial_within_the_bounds(plan, tmp_path):
    for slot, (loss, cv) in enumerate([(1.0, 0.6), (2.0, 0.4)]):
        write_result(tmp_path / f"tree/trial_00{slot}", 1.0, val_loss=loss, val_load_cv_expert=cv)
    standings = Standings("trial", *plan, tmp_path)
    states = {"tree/trial_000": "complete", "tree/trial_001": "failed"}
    (tree,) = standings.of(states).arms
    assert tree.values == {}
    (tree,) = standings.of(states | {"tree/trial_001": "complete"}).arms
    assert tree.values == {"val/loss": 2.0, "val/load/cv/expert": 0.4}


def test_runs_that_confirm_are_told_as_means_on_the_test_set(plan, tmp_path):
    for seed, loss in ((1000, 1.0), (1001, 2.0)):
        write_result(
            tmp_path / f"confirm/tree/seed_{seed}",
            1.0,
            val_loss=9.0,
            test_loss=loss,
            test_load_cv_expert=0.5,
            test_load_cv_level_0=loss,
        )
    places = [f"confirm/tree/seed_{seed}" for seed in (1000, 1001)]
    (tree,) = Standings("confirm", *plan, tmp_path).of(dict.fromkeys(places, "complete")).arms
    assert tree.values == {"val/loss": 1.5, "val/load/cv/expert": 0.5}
    assert tree.loads == [1.5]


def test_before_a_run_has_ended_its_own_pace_tells_the_time(plan, tmp_path):
    states = {"tree/trial_000": "running", "tree/trial_001": "waiting"}
    standings = Standings("trial", *plan, tmp_path)
    assert standings.of(states).seconds_left is None
    write_events(tmp_path / "tree/trial_000", (0, 50.0), (10, 55.0))  # 0.5 s a step
    assert standings.of(states).seconds_left == pytest.approx((10 + 20) * 0.5 / 2)


def test_a_half_written_line_is_no_step(tmp_path):
    write_events(tmp_path / "a", (1, 1.0))
    with (tmp_path / "a/events.jsonl").open("a") as file:
        file.write('{"step": 2, "ti')
    assert steps_done(tmp_path / "a") == 0  # until it is whole
    assert steps_done(tmp_path / "b") == 0


def test_the_owner_of_a_study_is_there_or_gone(tmp_path):
    assert not is_owned(tmp_path)
    (tmp_path / "owner").write_text(str(os.getpid()))
    assert is_owned(tmp_path)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    (tmp_path / "owner").write_text(str(process.pid))
    assert not is_owned(tmp_path)


def test_a_search_is_read_without_a_change_to_its_file(plan, tmp_path):
    assert set(Search(*plan, tmp_path, reading=True).states().values()) == {"waiting"}
    assert not list(tmp_path.iterdir())
    search = Search(*plan, tmp_path)
    first, second = search.ask(), search.ask()
    search.tell(first, dict.fromkeys(first.arm.objectives, 0.25))
    file = tmp_path / "optuna.db"
    before = file.read_bytes(), file.stat().st_mtime_ns
    file.chmod(0o444)
    states = Search(*plan, tmp_path, reading=True).states()
    assert states == search.states()
    assert (states[first.place], states[second.place]) == ("complete", "running")
    assert list(states.values()).count("waiting") == 2
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
