"""Studies made by hand, without a store, for tests that work numbers out."""

from collections.abc import Mapping, Sequence
from typing import Any

from hmoe.tracking import Contract, LevelLoad, Objective, Point, Run, Study

QUALITY, BALANCE = Objective("val/loss", "minimize"), Objective("val/load/cv/expert", "minimize")


def make_run(
    arm: str, quality: float | None = None, balance: float | None = None, **changes: Any
) -> Run:
    """A complete trial, or with quality None one without a result."""
    metrics: dict[str, float] = {}
    if quality is not None:
        metrics["final/val/loss"] = quality
    if balance is not None:
        metrics["final/val/load/cv/expert"] = balance
    cost: Mapping[str, float] = changes.pop("cost", {"active_params": 1000.0})
    seed = changes.pop("seed", 0)
    name = changes.pop("name", f"{arm}/{seed}")
    values: dict[str, Any] = {
        "id": changes.pop("id", name),
        "name": name,
        "kind": "trial",
        "arm": arm,
        "seed": seed,
        "state": "complete",
        "status": "FINISHED",
        "tree": "",
        "command": f"hmoe train arm={arm} seed={seed}",
        "params": {},
        "swept": (),
        "tags": {},
        "metrics": metrics | dict(changes.pop("metrics", {})),
        "cost": cost,
        "level_loads": {},
        "start_ms": 0,
        "end_ms": 1000,
    }
    return Run(**(values | changes))


def make_study(runs: Sequence[Run], **changes: Any) -> Study:
    """A study of these runs; its arms are theirs in order."""
    values: dict[str, Any] = {
        "name": "hand",
        "id": "parent",
        "question": "Which?",
        "note": "",
        "command": "hmoe sweep sweep=hand",
        "objectives": (QUALITY, BALANCE),
        "contract": Contract("active_params", 1000.0, 0.02),
        "confirmation": None,
        "registration": None,
        "arms": tuple(dict.fromkeys(run.arm for run in runs)),
        "tags": {},
        "params": {},
        "runs": tuple(runs),
        "start_ms": 0,
        "end_ms": 60_000,
    }
    return Study(**(values | changes))


def curve(*values: float, seconds_per_step: float = 1.0) -> tuple[Point, ...]:
    """A curve with a point every 10 steps."""
    return tuple(Point(10 * i, v, 10 * i * seconds_per_step) for i, v in enumerate(values))


def level(nodes: Sequence[str], load: Sequence[float], even: Sequence[float]) -> LevelLoad:
    return LevelLoad(tuple(nodes), tuple(load), tuple(even))
