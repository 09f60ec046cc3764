"""Trials per hour of two workers against one, on the cores of this machine, in turns."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from hmoe.bench.measure import AIM_COLUMNS, Aim, in_turns, save, spread, table, wide_console
from hmoe.bench.plot import plot_ratios
from hmoe.study import Sweep, load_sweep, plan_arms, run_sweep

_CASES = {
    "digits, residual MLP": ("data=digits", "model=mlp"),
    "stdlib, transformer": (
        *("data=stdlib", "data.eval_bytes=16384", "model=transformer", "trainer.max_steps=8"),
    ),
}
_TRIALS, _AIM = 4, 1.7


def bench_sweep(*, rounds: int, out: Path, overrides: Sequence[str], command: str) -> Path:
    """Trials per hour of two workers over those of one, alone on its half of the cores or on all.

    A turn is a whole sweep of four trials, with all that Optuna and MLflow keep of it. What is paid
    once comes before: the databases, and the imports of the server that children are forked from.
    Prints tables, writes `sweep.json` and `sweep.svg` into `out`, returns the path of the first.
    """
    rows = [
        row
        for case, choices in _CASES.items()
        for row in compare(case, [*choices, *overrides], rounds)
    ]
    aims = [Aim(_against(row), row["ratio"]["median"], _AIM, "at least") for row in rows]
    cores = os.cpu_count()
    console = wide_console()
    title = f"Trials per hour: two workers, each on half of {cores} cores / one worker"
    plot_ratios(
        rows,
        out / "sweep.svg",
        name=_against,
        title="Trials per hour: two workers / one worker",
        x_label="median, lowest and highest turn",
        aim=_AIM,
    )
    columns = ("case", "against", "ratio", "one_trials_per_hour", "two_trials_per_hour")
    console.print(table(title, rows, columns))
    reached = [aim.row() for aim in aims]
    console.print(table("aims", reached, AIM_COLUMNS))
    record = {"cases": rows, "aims": reached, "cores": cores}
    return save(record, suite="sweep", out=out, command=command)


def _against(row: Mapping[str, Any]) -> str:
    return f"{row['case']}, against {row['against']}"


def compare(case: str, choices: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Sweeps of two workers and of one, in turns, each time under a name of its own."""
    half = max(1, (os.cpu_count() or 1) // 2)
    sides = {
        "two": tiny_study(choices, workers=2),
        "one on half of the cores": tiny_study([*choices, f"trainer.threads={half}"], workers=1),
        "one on all cores": tiny_study(choices, workers=1),
    }
    arms, numbers = {name: plan_arms(sweep) for name, sweep in sides.items()}, count()
    with tempfile.TemporaryDirectory() as runs:

        def run(name: str) -> None:
            named = sides[name].model_copy(update={"name": f"turn_{next(numbers)}"})
            run_sweep(named, arms[name], Path(runs), command="", show=lambda _: None)

        turns = {name: partial(run, name) for name in sides}
        times = in_turns(turns, rounds=rounds, title=case)
    two = times.pop("two")
    return [
        {
            "case": case,
            "against": name,
            "ratio": spread(one.over(two, "wall")),
            "one_trials_per_hour": 3600 * _TRIALS / one.seconds("wall"),
            "two_trials_per_hour": 3600 * _TRIALS / two.seconds("wall"),
            "one_s": one.wall_s,
            "two_s": two.wall_s,
        }
        for name, one in times.items()
    ]


def tiny_study(choices: Sequence[str], *, workers: int) -> Sweep:
    """A flat and a two-level mixture, two trials each."""
    common = ",".join(repr(choice) for choice in [*choices, "balance=switch"])
    changes = [
        f"workers={workers}",
        "confirm=null",
        f"budget.trials={_TRIALS}",
        "objectives=[val/loss,val/load/cv/expert]",
        "contract={match:active_params,reference:flat,tolerance:0.1}",
        f"overrides=[{common}]",
        "arms={flat:{overrides:['tree.spec=[16]']},tree:{overrides:['tree.spec=[4,4]']}}",
    ]
    return load_sweep("hierarchy", changes)
