"""The runs of a study, inspected side by side: those on which its answer rests.

Each is inspected in a process of its own, one CPU thread each, and keeps its record beside its
other files; a run that has one is not inspected again.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from hmoe.errors import HmoeError
from hmoe.inspection.inspect import inspect_run
from hmoe.metrics import Inspection, direction
from hmoe.tracking import Run, Study, run_folder_of
from hmoe.training import start_server

FOLDER = "inspection"


@dataclass(frozen=True)
class Inspected:
    """What was found out about a study.

    Attributes:
        known: by the id of a run its inspection.
        new: the ids of those that were inspected now.
        left_out: names of runs that could not be inspected, and why.
    """

    known: dict[str, Inspection]
    new: tuple[str, ...]
    left_out: dict[str, str]


def telling_runs(study: Study) -> list[Run]:
    """The runs to inspect: those that confirm, else the best trial of each arm; no dense ones."""
    complete = [run for run in study.runs if run.state == "complete" and run.tree]
    confirming = [run for run in complete if run.kind == "confirm"]
    return confirming or [
        min((run for run in complete if run.arm == arm), key=lambda run: _rank(study, run))
        for arm in dict.fromkeys(run.arm for run in complete)
    ]


def _rank(study: Study, run: Run) -> float:
    """Lower is better, by the first objective that the run has."""
    for objective in study.objectives:
        value = run.metrics.get(f"final/{objective.metric}")
        if value is not None:
            return value if direction(objective.metric) == "minimize" else -value
    return 0.0


def known_inspections(runs: Path, study: Study) -> dict[str, Inspection]:
    """The inspections that the runs of a study have beside their files, by the id of the run."""
    folders = {run.id: run_folder_of(runs, run) / FOLDER for run in telling_runs(study)}
    return {i: Inspection.load(folder) for i, folder in folders.items() if folder.is_dir()}


def inspect_study(
    runs: Path,
    study: Study,
    *,
    tokens: int,
    show: Callable[[str, int, int], None] = lambda *_: None,
) -> Inspected:
    """Inspect the telling runs of a study that have no inspection yet.

    Args:
        runs: folder of run folders.
        study: as it was read from there.
        tokens: most tokens of the validation set to look at.
        show: told of progress: (what, how many runs are done, of how many).

    Raises:
        DataError: the record of an earlier inspection cannot be read.
    """
    missing = [r for r in telling_runs(study) if not (run_folder_of(runs, r) / FOLDER).is_dir()]
    new: list[str] = []
    left_out: dict[str, str] = {}
    if missing:
        show("inspecting runs", 0, len(missing))
        workers = min(len(missing), os.cpu_count() or 1)
        with ProcessPoolExecutor(workers, mp_context=start_server(1)) as pool:
            tasks = {
                pool.submit(_inspect, run_folder_of(runs, run), tokens, run.name, run.arm): run
                for run in missing
            }
            for number, task in enumerate(as_completed(tasks), start=1):
                run = tasks[task]
                if reason := task.result():
                    left_out[run.name] = reason
                else:
                    new.append(run.id)
                show("inspecting runs", number, len(missing))
    return Inspected(known_inspections(runs, study), tuple(new), left_out)


def _inspect(folder: Path, tokens: int, name: str, arm: str) -> str:
    """Inspect a run and keep the record beside it; why that could not be, or ""."""
    try:
        found = inspect_run(folder, split="val", tokens=tokens, name=name, arm=arm)
    except HmoeError as error:
        return str(error)
    found.save(folder / FOLDER)
    return ""
