"""Reading a study back from MLflow as plain records. Reports need to know no more than these.

Reads only: a store that is not there is an error, never made.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.entities import Run as MlflowRun

from hmoe.errors import ConfigError, nearest
from hmoe.tracking.client import PARENT, RUN_ID, artifact_root, check_store, open_client, search
from hmoe.tracking.record import STATUS

_SWEEP = "sweep"
_KIND = f"tags.`hmoe.kind` = '{_SWEEP}'"


class Point(NamedTuple):
    """One value of a curve. `seconds` counts from the run's first event, pauses left out."""

    step: int
    value: float
    seconds: float


@dataclass(frozen=True)
class LevelLoad:
    """Load of one level: per node its name, its share of all rows, and its even share."""

    nodes: tuple[str, ...]
    load: tuple[float, ...]
    even: tuple[float, ...]


@dataclass(frozen=True)
class Objective:
    """A metric of results, such as "val/bits_per_byte", and its direction."""

    metric: str
    direction: str

    @property
    def minimised(self) -> bool:
        return self.direction == "minimize"


@dataclass(frozen=True)
class Contract:
    """What the arms are matched on: a cost, its reference (an arm or a number), a tolerance."""

    match: str
    reference: str | float
    tolerance: float


@dataclass(frozen=True)
class Confirmation:
    """How arms are confirmed: see `Confirm` of the sweep file. All arms where `arms` is empty."""

    seeds: int
    margins: Mapping[str, float]
    alpha: float
    arms: tuple[str, ...]
    against: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Registration:
    """What was written down before the first trial: digest of the plan, commit, when (UTC)."""

    digest: str
    commit: str
    time: str


@dataclass(frozen=True)
class Run:
    """One trial or confirmation seed.

    Attributes:
        kind: "trial", "confirm" or "train".
        state: complete, pruned, failed, diverged, interrupted or running.
        status: how MLflow files it.
        swept: keys of those params that the study varies.
        metrics: the last value of every metric, final/*, best/* and cost/* among them.
        history: curves by metric; empty until `with_history`.
        level_loads: by level, "level_0" first; empty for dense controls and unfinished runs.
        cost: the cost/* metrics without the prefix.
        start_ms, end_ms: unix milliseconds; end_ms is None while it runs.
    """

    id: str
    name: str
    kind: str
    arm: str
    seed: int | None
    state: str
    status: str
    tree: str
    command: str
    params: Mapping[str, str]
    swept: tuple[str, ...]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    cost: Mapping[str, float]
    level_loads: Mapping[str, LevelLoad]
    start_ms: int
    end_ms: int | None
    history: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        return self.tags.get("hmoe.reason", "")


@dataclass(frozen=True)
class Study:
    """A question, the arms it compares and the runs made to answer it, oldest first.

    Attributes:
        looks: numbers of seeds at which a complete confirmation was evaluated; empty if unknown.
    """

    name: str
    id: str
    question: str
    note: str
    command: str
    objectives: tuple[Objective, ...]
    contract: Contract | None
    confirmation: Confirmation | None
    registration: Registration | None
    arms: tuple[str, ...]
    tags: Mapping[str, str]
    params: Mapping[str, str]
    runs: tuple[Run, ...]
    start_ms: int
    end_ms: int | None
    looks: tuple[int, ...] = ()


def study_names(runs: Path) -> list[str]:
    """Names of all studies under `runs`, oldest first."""
    check_store(runs)
    client = open_client(runs)
    names = {e.experiment_id: e.name for e in client.search_experiments()}
    found = search(client, list(names), _KIND)
    return list(dict.fromkeys(names[run.info.experiment_id] for run in found))


def read_study(runs: Path, study: str) -> Study:
    """The records of a study, without curves.

    Raises:
        ConfigError: there is no store, or no study of that name; names the nearest one.
    """
    check_store(runs)
    client = open_client(runs)
    experiment = client.get_experiment_by_name(study)
    parents = list(search(client, [experiment.experiment_id], _KIND)) if experiment else []
    if not parents:
        names = study_names(runs)
        known = f"there are {', '.join(names)}." if names else "there are none."
        raise ConfigError(
            f"study = {study!r} is not among the studies of {runs.resolve()}; {known}"
            f"{nearest(study, names)}"
        )
    parent = parents[-1]
    tags = parent.data.tags
    where = f"tags.`{PARENT}` = '{parent.info.run_id}'"
    children = search(client, [parent.info.experiment_id], where)
    return Study(
        name=study,
        id=parent.info.run_id,
        question=tags.get("hmoe.question", ""),
        note=tags.get("mlflow.note.content", ""),
        command=tags.get("hmoe.command", ""),
        objectives=tuple(Objective(*o) for o in json.loads(tags.get("hmoe.objectives", "[]"))),
        contract=_contract(json.loads(tags.get("hmoe.contract", "{}"))),
        confirmation=_confirmation(json.loads(tags.get("hmoe.confirm", "null"))),
        registration=_registration(json.loads(tags.get("hmoe.registration", "null"))),
        arms=tuple(json.loads(tags.get("hmoe.arms", "[]"))),
        tags=tags,
        params=parent.data.params,
        runs=tuple(_run(child, runs) for child in children),
        start_ms=parent.info.start_time,
        end_ms=None if parent.info.status == "RUNNING" else parent.info.end_time,
        looks=tuple(json.loads(tags.get("hmoe.looks", "[]"))),
    )


def find_run(runs: Path, name: str) -> Run:
    """The run of an id, of a folder, or of a name; of `study/name` where several have that name.

    Raises:
        ConfigError: there is no store, no such run, or several.
    """
    check_store(runs)
    name = stored_name(runs, name)
    client = open_client(runs)
    studies = {e.experiment_id: e.name for e in client.search_experiments()}
    kept = search(client, list(studies), f"tags.`hmoe.kind` != '{_SWEEP}'")
    known = [(f"{studies[run.info.experiment_id]}/{run.info.run_name}", run) for run in kept]
    found = {
        full: run
        for full, run in known
        if name in (run.info.run_id, run.info.run_name, full, run.data.tags.get("hmoe.folder"))
    }
    if len(found) == 1:
        return _run(next(iter(found.values())), runs)
    if found:
        raise ConfigError(f"run = {name!r}: there are {', '.join(found)}; say which.")
    names = [known_as for full, _ in known for known_as in (full, full.partition("/")[2])]
    raise ConfigError(f"run = {name!r}: no run in {runs.resolve()} has it.{nearest(name, names)}")


def run_in(runs: Path, folder: Path) -> Run | None:
    """The run that was tracked from a run folder; None where there is none of it under `runs`."""
    try:
        return find_run(runs, (folder / RUN_ID).read_text().strip())
    except (OSError, ConfigError):
        return None


def stored_name(runs: Path, name: str) -> str:
    """A folder below `runs` as "study/arm/trial_000"; any other name as it is."""
    folder, below = Path(name).resolve(), runs.resolve()
    if folder.is_dir() and folder.is_relative_to(below):
        return folder.relative_to(below).as_posix()
    return name


def run_folder_of(runs: Path, run: Run) -> Path:
    """Where a run wrote its files."""
    return runs / run.tags["hmoe.folder"]


def _contract(tag: Mapping[str, Any]) -> Contract | None:
    if "match" not in tag:
        return None
    return Contract(tag["match"], tag.get("reference", ""), float(tag.get("tolerance", 0.02)))


def _confirmation(tag: Mapping[str, Any] | None) -> Confirmation | None:
    return None if tag is None else Confirmation(**{**tag, "arms": tuple(tag["arms"] or ())})


def _registration(tag: Mapping[str, Any] | None) -> Registration | None:
    return None if tag is None else Registration(**tag)


def _run(run: MlflowRun, runs: Path) -> Run:
    info, tags, metrics = run.info, run.data.tags, run.data.metrics
    state = _state(info.status, tags.get("hmoe.state", ""))
    return Run(
        id=info.run_id,
        name=info.run_name,
        kind=tags.get("hmoe.kind", ""),
        arm=tags.get("hmoe.arm", ""),
        seed=int(tags["hmoe.seed"]) if "hmoe.seed" in tags else None,
        state=state,
        status=info.status,
        tree=tags.get("hmoe.tree", ""),
        command=tags.get("hmoe.command", ""),
        params=run.data.params,
        swept=tuple(json.loads(tags.get("hmoe.swept", "[]"))),
        tags=tags,
        metrics=metrics,
        cost={k.removeprefix("cost/"): v for k, v in metrics.items() if k.startswith("cost/")},
        level_loads=_level_loads(info.artifact_uri, runs),
        start_ms=info.start_time,
        end_ms=None if state == "running" else info.end_time,
    )


def _state(status: str, tag: str) -> str:
    """How a run ended; from MLflow's status alone where other hands than hmoe's closed it."""
    if status == "RUNNING":
        return "running"
    by_hand = {"FINISHED": "complete", "FAILED": "failed"}
    return tag if STATUS.get(tag) == status else by_hand.get(status, "interrupted")


def _level_loads(artifact_uri: str, runs: Path) -> dict[str, LevelLoad]:
    # The address holds the path at the time of writing; a runs folder may have moved since.
    _, _, place = artifact_uri.rpartition(f"/{artifact_root(runs).name}/")
    path = artifact_root(runs) / place / "level_loads.json"
    if not path.exists():
        return {}
    levels = {}
    for level, record in sorted(json.loads(path.read_text()).items(), key=_level_number):
        nodes = record["nodes"]
        even = record.get("even") or [1 / len(nodes)] * len(nodes)
        levels[level] = LevelLoad(tuple(nodes), tuple(record["load"]), tuple(even))
    return levels


def _level_number(item: tuple[str, Any]) -> int:
    return int(item[0].rpartition("_")[2])
