"""The runs of a study, inspected side by side: those on which its answer rests.

Each is inspected in a process of its own, one CPU thread each, and keeps its record beside its
other files. A record counts that can be read, is of the validation set, and of as many tokens as
are asked for; such a run is not inspected again. A run that cannot be inspected stops no other.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch

from hmoe.errors import DataError, HmoeError
from hmoe.inspection.inspect import inspect_run
from hmoe.metrics import Inspection, direction
from hmoe.metrics.inspection import RECORD
from hmoe.tracking import Run, Study, run_folder_of
from hmoe.training import start_server

FOLDER = "inspection"
_SPLIT = "val"


@dataclass(frozen=True)
class Inspected:
    """What was found out about a study.

    Attributes:
        known: by the id of a run its inspection.
        new: the ids of those that were inspected now.
        left_out: names of runs of which nothing can be told, and why.
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


def known_inspections(runs: Path, study: Study) -> Inspected:
    """What the telling runs of a study have beside their files, of however many tokens.

    A run without a record is not mentioned; one whose record cannot be used is left out.
    """
    known, left_out = {}, {}
    for run in telling_runs(study):
        folder = run_folder_of(runs, run) / FOLDER
        if not (folder / RECORD).exists():
            continue
        try:
            found = Inspection.load(folder)
        except DataError as error:
            left_out[run.name] = str(error)
            continue
        if found.split == _SPLIT:
            known[run.id] = found
        else:
            left_out[run.name] = f"{folder}: is of {found.split}, and a study tells of {_SPLIT}."
    return Inspected(known, (), left_out)


def inspect_study(
    runs: Path,
    study: Study,
    *,
    tokens: int,
    workers: int,
    show: Callable[[str, int, int], None] = lambda *_: None,
) -> Inspected:
    """Inspect the telling runs of a study that have no record of so many tokens.

    Args:
        runs: folder of run folders.
        study: as it was read from there.
        tokens: most tokens of the validation set to look at.
        workers: most runs inspected at once, each with its own data and model; one on a GPU.
        show: told of progress: (what, how many runs are done, of how many).
    """
    before = known_inspections(runs, study).known
    had = {i for i, found in before.items() if found.num_tokens <= tokens <= found.asked}
    missing = [run for run in telling_runs(study) if run.id not in had]
    new: list[str] = []
    failed: dict[str, str] = {}
    if missing:
        show("inspecting runs", 0, len(missing))
        context = start_server(1)
        with ThreadPoolExecutor(_at_once(len(missing), workers)) as pool:
            tasks = {
                pool.submit(_apart, context, run_folder_of(runs, run), tokens, run): run
                for run in missing
            }
            for number, task in enumerate(as_completed(tasks), start=1):
                run = tasks[task]
                if reason := task.result():
                    failed[run.name] = reason
                else:
                    new.append(run.id)
                show("inspecting runs", number, len(missing))
    after = known_inspections(runs, study)
    known = {i: found for i, found in after.known.items() if i in had or i in new}
    return Inspected(known, tuple(i for i in new if i in known), after.left_out | failed)


def _at_once(runs: int, workers: int) -> int:
    return 1 if torch.cuda.is_available() else max(1, min(runs, workers))


def _apart(context: ForkServerContext, folder: Path, tokens: int, run: Run) -> str:
    """`_inspect` in a process of its own, whose death is one more reason."""
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_inspect, folder, tokens, run.name, run.arm).result()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _inspect(folder: Path, tokens: int, name: str, arm: str) -> str:
    """Inspect a run and keep the record beside it; why that could not be, or ""."""
    torch.set_num_threads(1)  # the server may have been started with more, for training
    try:
        found = inspect_run(folder, split=_SPLIT, tokens=tokens, name=name, arm=arm)
        found.save(folder / FOLDER)
    except HmoeError as error:
        return str(error)
    except Exception as error:  # a file that was cut off or emptied: no reason to tell of no run
        return f"{type(error).__name__}: {error}"
    return ""
