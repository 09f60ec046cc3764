"""A made-up study, written to run folders as training writes them and uploaded as a sweep does.

Used by the tests of tracking and of the report. The numbers are invented but have the size of real
ones; every trial is a pure function of its arm and seed.
"""

import atexit
import json
import math
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hmoe.tracking import Store

START = 1_790_000_000.0
OBJECTIVES = [("val/bits_per_byte", "minimize"), ("val/load/cv/expert", "minimize")]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


@dataclass(frozen=True)
class Arm:
    """An invented arm: its tree as levels of node names, and where its trials end up."""

    name: str
    tree: str
    levels: Sequence[Sequence[str]]
    quality: float
    cv: float
    active_params: int = 412_000


def uniform(*sizes: int) -> list[list[str]]:
    """Node names of a uniform tree, as `Tree.path_N` gives them."""
    levels: list[list[str]] = [[str(i) for i in range(sizes[0])]]
    for size in sizes[1:]:
        levels.append([f"{parent}.{i}" for parent in levels[-1] for i in range(size)])
    return levels


_TEAMS = ["sales.emea", "sales.us", "research.models", "research.data"]
COMPANY = [
    ["legal", "sales", "research"],
    ["legal", *_TEAMS],
    [
        "legal",
        *(f"{team}.{i}" for team, n in zip(_TEAMS, (2, 3, 4, 6), strict=True) for i in range(n)),
    ],
]
_COMPANY_SPEC = '{"legal": 1, "sales": {"emea": 2, "us": 3}, "research": {"models": 4, "data": 6}}'

ARMS = (
    Arm("dense", "", [], 2.318, 0.0, 411_264),
    Arm("flat", "16", uniform(16), 2.214, 0.41, 412_800),
    Arm("two_level", "4x4", uniform(4, 4), 2.187, 0.33, 411_904),
    Arm("three_level", "2x2x4", uniform(2, 2, 4), 2.201, 0.24, 411_520),
    Arm("company", _COMPANY_SPEC, COMPANY, 2.229, 0.62, 425_000),
)


@cache
def _empty_database() -> Path:
    """A store with its tables; making one takes seconds, copying it does not."""
    folder = Path(tempfile.mkdtemp(prefix="hmoe-test-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Store(folder)
    return folder / "mlflow.db"


def empty_store(runs: Path) -> Store:
    """A new store under `runs`, quickly."""
    runs.mkdir(parents=True, exist_ok=True)
    shutil.copy(_empty_database(), runs / "mlflow.db")
    return Store(runs)


def write_events(folder: Path, events: Sequence[Mapping[str, Any]], end: str = "\n") -> None:
    """Append to events.jsonl; `end` closes the last line."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "events.jsonl").open("a") as file:
        file.write("\n".join(json.dumps(event) for event in events) + end)


def event(step: int, time: float = START, **metrics: float) -> dict[str, Any]:
    """One line of events.jsonl; `_` in a key stands for `/`."""
    return {
        "step": step,
        "time": time + step,
        "metrics": {key.replace("_", "/"): value for key, value in metrics.items()},
    }


def write_result(folder: Path, **changes: Any) -> dict[str, Any]:
    """Write a small result.json, with some keys changed."""
    result = {
        "state": "complete",
        "metrics": {"val/loss": 1.5, "val/accuracy": 0.5, "best/val/loss": 1.25},
        "cost": {"total_params": 4000, "active_params": 1000.0, "flops_per_token": 2000.0},
        "tree": "4",
        "level_loads": {"level_0": {"nodes": ["0", "1"], "load": [0.75, 0.25], "even": [0.5, 0.5]}},
        "config_digest": "c" * 64,
        "data_digest": DIGEST,
        "git_commit": COMMIT,
        "git_dirty": False,
        "versions": {"torch": "2.15.0"},
        "command": "hmoe train data=digits",
        "seed": 0,
        "started": START,
        "ended": START + 60,
    }
    result |= changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result))
    return result


def write_trial(folder: Path, arm: Arm, seed: int, lr: float, steps: int = 1000) -> None:
    """Write a whole run folder of an invented trial."""
    rng = random.Random(f"{arm.name}/{seed}")
    shift = rng.gauss(0, 0.008)
    speed = 90 - 12 * len(arm.levels) + rng.uniform(-3, 3)
    loads = {f"level_{i}": _loads(rng, nodes, arm) for i, nodes in enumerate(arm.levels)}
    last: dict[str, float] = {}
    lines = []
    for step in range(50, steps + 1, 50):
        left = 3.2 * math.exp(-step / 130) + 0.9 * math.exp(-step / 420)
        bits = arm.quality + shift + left + rng.gauss(0, 0.006)
        last = {"val/bits_per_byte": bits, "val/loss": bits * math.log(2)}
        wobble = rng.uniform(0, 0.02)
        for level in [*loads, "expert"] if loads else []:
            above = len(loads) - 1 - (len(loads) - 1 if level == "expert" else int(level[-1]))
            cv = (arm.cv + shift) * 0.7**above + 1.1 * math.exp(-step / 90) + wobble
            last |= {
                f"val/load/cv/{level}": cv,
                f"val/load/max_violation/{level}": 2.1 * cv,
                f"val/load/entropy/{level}": 1 - 0.3 * cv * cv,
                f"val/load/dead/{level}": 0.0,
            }
        metrics = {"train/loss": bits * math.log(2) - 0.03, "time/steps_per_s": speed, **last}
        lines.append({"step": step, "time": START + step / speed, "metrics": metrics})
    write_events(folder, lines)
    config = {
        "seed": seed,
        "tree": {"spec": arm.tree},
        "data": {"_target_": "hmoe.data.StdLib", "batch_size": 32},
        "optim": {"lr": lr},
        "trainer": {"max_steps": steps},
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    active = arm.active_params
    write_result(
        folder,
        metrics={**last, "best/val/loss": last["val/loss"]},
        cost={
            "total_params": active * (4 if arm.levels else 1),
            "active_params": active,
            "num_mixtures": 2 * bool(arm.levels),
            "gate_params": 800 * len(arm.levels),
            "flops_per_token": 2.0 * active,
            "train_flops": 6.0 * active * steps * 4096,
            "seconds": steps / speed,
            "tokens": steps * 4096,
        },
        tree=arm.tree or "4x4",  # a dense control has a tree in its config, and does not use it
        level_loads=loads,
        seed=seed,
        command=_command(arm, seed, lr),
        git_dirty=True,
        versions={"python": "3.11.7", "torch": "2.15.0", "mlflow": "3.17.2"},
        ended=START + steps / speed,
    )


def fake_study(
    runs: Path,
    arms: Sequence[Arm] = ARMS,
    trials: int = 3,
    name: str = "fake",
    confirm_seeds: int = 0,
) -> str:
    """Write and upload a study in which one more trial of each of three arms went wrong.

    With `confirm_seeds` all arms are confirmed against the second, on that many fresh seeds; the
    last arm loses one.
    """
    store = empty_store(runs)
    tags: dict[str, Any] = {"mlflow.source.git.commit": COMMIT, "hmoe.git_dirty": True}
    if confirm_seeds:
        margins = {"val/bits_per_byte": 0.02, "val/load/cv/expert": 0.05}
        tags["hmoe.confirm"] = {
            "seeds": confirm_seeds,
            "margins": margins,
            "alpha": 0.05,
            "arms": None,
        }
        tags["hmoe.registration"] = {
            "digest": DIGEST,
            "commit": COMMIT,
            "time": "2026-09-21T13:46:40Z",
        }
        tags["hmoe.deviations"] = ["budget.trials: 9 -> 15"]
    parent = store.start_study(
        name,
        question="Does a tree of gates beat a flat gate at equal active parameters?",
        objectives=OBJECTIVES,
        contract={
            "match": "active_params",
            "reference": arms[bool(confirm_seeds)].name,
            "tolerance": 0.02,
        },
        arms=[arm.name for arm in arms],
        command=f"hmoe sweep sweep={name} workers=2",
        tags=tags,
    )
    for arm in arms:
        for i in range(trials):
            folder, lr = runs / name / arm.name / f"trial_{i:03d}", (1e-3, 2e-3, 3e-3)[i % 3]
            write_trial(folder, arm, i, lr)
            run = _start(store, folder, parent, name, arm, i, lr)
            store.finish(run, folder, state="complete")
    ends = [("failed", "CUDA out of memory"), ("diverged", "train/loss is nan at step 100")]
    for arm, (state, reason) in zip(arms, [*ends, ("interrupted", "Ctrl-C")], strict=False):
        folder = runs / name / arm.name / f"trial_{trials:03d}"
        write_events(folder, [event(50, train_loss=4.0), event(100, train_loss=3.0)])
        run = _start(store, folder, parent, name, arm, trials, 1e-2)
        store.finish(run, folder, state=state, reason=reason)
    for arm in arms:
        for seed in range(1000, 1000 + confirm_seeds):
            folder = runs / name / "confirm" / arm.name / f"seed_{seed}"
            _confirm(store, folder, parent, name, arm, seed, lost=(arm, seed) == (arms[-1], 1000))
    store.finish_study(parent, state="complete")
    return parent


def _confirm(
    store: Store, folder: Path, parent: str, study: str, arm: Arm, seed: int, *, lost: bool
) -> None:
    """A confirming run, whose test metrics are near those of validation; a lost one diverged."""
    write_trial(folder, arm, seed, 2e-3)
    run = _start(store, folder, parent, study, arm, seed, 2e-3, kind="confirm")
    if lost:
        store.finish(run, folder, state="diverged", reason="train/loss is nan at step 100")
        return
    result = json.loads((folder / "result.json").read_text())
    shift = random.Random(seed).gauss(0, 0.03)  # shared by the arms, as data and order are
    result["metrics"] |= {
        f"test/{key.removeprefix('val/')}": x + shift
        for key, x in result["metrics"].items()
        if key.startswith("val/")
    }
    (folder / "result.json").write_text(json.dumps(result))
    store.finish(run, folder, state="complete")


def _start(
    store: Store,
    folder: Path,
    parent: str,
    study: str,
    arm: Arm,
    seed: int,
    lr: float,
    kind: str = "trial",
) -> str:
    return store.start_run(
        folder,
        study=study,
        kind=kind,
        name=f"{arm.name}/{folder.name}",
        arm=arm.name,
        seed=seed,
        command=_command(arm, seed, lr),
        parent=parent,
        swept={"optim.lr": lr},
    )


def _command(arm: Arm, seed: int, lr: float) -> str:
    spec = arm.tree if arm.tree.startswith("{") else f"[{arm.tree.replace('x', ',')}]"
    tree = f" 'tree.spec={spec}'" if arm.tree else " model.block=dense"
    return f"hmoe train data=stdlib model=transformer{tree} optim.lr={lr:g} seed={seed}"


def _loads(rng: random.Random, nodes: Sequence[str], arm: Arm) -> dict[str, Any]:
    experts = arm.levels[-1]
    below = [sum(e == node or e.startswith(f"{node}.") for e in experts) for node in nodes]
    even = [count / len(experts) for count in below]
    load = [share * max(0.05, rng.gauss(1, arm.cv)) for share in even]
    return {"nodes": list(nodes), "load": [x / sum(load) for x in load], "even": even}
