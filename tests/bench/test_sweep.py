"""The sweeps that are timed: every side runs the same trials, each with its share of the cores."""

import json

import pytest

from hmoe.bench.sweep import bench_sweep, tiny_study
from hmoe.study import plan_arms

TINY = ("data=digits", "model=mlp", "model.dim=16", "trainer.max_steps=2")


def test_all_sides_run_the_same_trials() -> None:
    one = tiny_study([*TINY, "trainer.threads=1"], workers=1)
    two = tiny_study(TINY, workers=2)
    assert (one.workers, two.workers) == (1, 2)
    assert one.budget == two.budget
    assert (one.seed, one.space, one.when) == (two.seed, two.space, two.when)
    costs = [[arm.cost for arm in plan_arms(sweep)] for sweep in (one, two)]
    assert costs[0] == costs[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_ratios_are_of_seconds(tmp_path) -> None:
    """Against one worker on half of the cores and on all, for small steps and for large ones."""
    overrides = ["trainer.max_steps=2"]
    path = bench_sweep(rounds=1, out=tmp_path, overrides=overrides, command="hmoe bench sweep")
    rows = json.loads(path.read_text())["cases"]
    assert len(rows) == 4
    for row in rows:
        (one,), (two,) = row["one_s"], row["two_s"]
        assert row["ratio"]["median"] == one / two > 0
        assert row["two_trials_per_hour"] == 3600 * 4 / two
