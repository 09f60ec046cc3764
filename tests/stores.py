"""What Optuna and MLflow hold of a sweep, read past hmoe, as any other program sees it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from mlflow import MlflowClient

from hmoe.study.search import place_of
from hmoe.study.storage import storage_url

PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class Trial:
    """One trial in Optuna."""

    arm: str
    slot: int | None
    state: str
    reason: str
    values: list[float] | None


def optuna_trials(runs: Path) -> list[Trial]:
    """Every trial of every study in the storage, lost ones too; none before there is a storage."""
    if not (runs / "optuna.db").exists():
        return []
    storage = optuna.storages.RDBStorage(storage_url(runs))
    found = [
        Trial(
            study.study_name.rpartition("/")[2],
            trial.user_attrs.get("hmoe.slot"),
            trial.state.name,
            trial.user_attrs.get("hmoe.reason", ""),
            trial.values,
        )
        for study in optuna.get_all_study_summaries(storage)
        for trial in optuna.load_study(study_name=study.study_name, storage=storage).get_trials()
    ]
    storage.engine.dispose()
    return found


def mlflow_runs(runs: Path, study: str) -> tuple[Any, list[Any]]:
    """The parent run of a study and its children."""
    client = MlflowClient(tracking_uri=f"sqlite:///{runs.resolve()}/mlflow.db")
    experiment = client.get_experiment_by_name(study)
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [run for run in found if PARENT not in run.data.tags]
    children = [run for run in found if run.data.tags.get(PARENT) == parent.info.run_id]
    assert len(children) == len(found) - 1
    return parent, children


def assert_nothing_runs(runs: Path, study: str) -> None:
    """Neither store holds anything as running or waiting."""
    parent, children = mlflow_runs(runs, study)
    assert [run.info.run_name for run in (parent, *children) if run.info.status == "RUNNING"] == []
    states = {trial.state for trial in optuna_trials(runs)}
    assert states <= {"COMPLETE", "FAIL", "PRUNED"}


def assert_every_slot_ended_once(
    runs: Path, study: str, slots: Mapping[str, int], failed: int = 0
) -> None:
    """Each planned slot has one final trial in Optuna, one run in MLflow, one folder; no more."""
    assert_nothing_runs(runs, study)
    planned = sorted((arm, slot) for arm, number in slots.items() for slot in range(number))
    final = [trial for trial in optuna_trials(runs) if trial.reason != "interrupted"]
    assert sorted((trial.arm, trial.slot) for trial in final) == planned
    assert sum(trial.state == "FAIL" for trial in final) == failed
    parent, children = mlflow_runs(runs, study)
    children = [run for run in children if run.data.tags["hmoe.kind"] == "trial"]
    assert (parent.info.status, parent.data.tags["hmoe.state"]) == ("FINISHED", "complete")
    names = sorted(run.info.run_name for run in children)
    assert names == sorted(f"{arm}/trial_{slot:03d}" for arm, slot in planned)
    ends = {run.info.run_name: (run.info.status, run.data.tags["hmoe.state"]) for run in children}
    for trial in final:
        end = ends[place_of(trial.arm, trial.slot)]
        assert end == (("FINISHED", "complete") if trial.state == "COMPLETE" else end)
        assert (end[0] == "FAILED") == (trial.state == "FAIL")
        assert (end[1] == "pruned") == (trial.state == "PRUNED")
    for arm, slot in planned:
        folder = runs / study / arm / f"trial_{slot:03d}"
        result = folder / "result.json"
        if ends[place_of(arm, slot)][1] == "complete":
            metrics = json.loads(result.read_text())["metrics"]
            (trial,) = [t for t in final if (t.arm, t.slot) == (arm, slot)]
            assert trial.values[0] == metrics["val/loss"]
