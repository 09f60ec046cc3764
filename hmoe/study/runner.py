"""The runner: ask, train in a child process, tell, until every planned job has ended.

Jobs are the trials of a search or the runs that confirm it. Only this process talks to Optuna and
to MLflow. Children train and write files; their files, not their exit status, say how they ended.
Stop it in any way and start it again with the same command: it goes on where it was.
"""

import json
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from omegaconf import DictConfig, OmegaConf

from hmoe.config import compose
from hmoe.errors import ConfigError, HmoeError
from hmoe.study.contract import PlannedArm
from hmoe.study.invocations import note
from hmoe.study.job import UNENDED, J, JobState, Source
from hmoe.study.registration import end_tags, owned, parent_tags, register
from hmoe.study.search import Search, check_search
from hmoe.study.space import settings_of
from hmoe.study.spec import Sweep
from hmoe.tracking import Store, read_study
from hmoe.training import (
    Child,
    changed_settings,
    spared_collection,
    start_server,
    write_failure,
)

_POLL_SECONDS = 0.1
_UPLOAD_SECONDS = 2.0


class SweepInterruptedError(HmoeError):
    """The work was stopped on purpose; its running jobs wait to be gone on with."""


@dataclass
class Work(Generic[J]):
    """One job under way.

    Attributes:
        lost_at: newest checkpoint when its process was last lost, "" without any; None if it never
            was.
    """

    job: J
    folder: Path
    run_id: str
    command: str
    cfg: DictConfig | None
    child: Child | None = None
    lost_at: str | None = None

    def start(self) -> None:
        """Train in a process of its own, from the last checkpoint if there is one."""
        plain = OmegaConf.to_container(self.cfg)
        assert isinstance(plain, dict)
        self.child = Child(cfg=plain, run=self.folder, command=self.command)

    def running(self) -> bool:
        """Whether its process is at work."""
        return self.child is not None and self.child.running()

    def newest_checkpoint(self) -> str:
        """Name of the newest checkpoint, "" without any."""
        return max((file.name for file in self.folder.glob("checkpoints/*.ckpt")), default="")


@dataclass(frozen=True)
class Progress:
    """What there is to show while a sweep or its confirmation runs.

    Attributes:
        message: a line to keep, such as how a job ended; "" for none.
        states: of every planned job, by its run folder below that of the study.
    """

    message: str
    states: Mapping[str, JobState]


def run_sweep(
    sweep: Sweep,
    arms: Sequence[PlannedArm],
    runs: Path,
    *,
    command: str,
    show: Callable[[Progress], None],
) -> None:
    """Run all trials of a sweep that have not ended yet; `run_jobs` says what else is raised.

    Raises:
        ConfigError: its search cannot be.
    """
    check_search(sweep, arms)  # as a plan does, for whoever comes without: before any folder

    def search() -> Search:
        found = Search(sweep, arms, runs)
        found.recover()
        if UNENDED & set(found.states().values()):
            asked = {"question": sweep.question, "trials": sweep.budget.trials}
            note(runs / sweep.name, command=command, **asked)
        return found

    run_jobs(sweep, arms, runs, source=search, command=command, show=show)


def run_jobs(
    sweep: Sweep,
    arms: Sequence[PlannedArm],
    runs: Path,
    *,
    source: Callable[[], Source[J]],
    command: str,
    show: Callable[[Progress], None],
) -> None:
    """Run all jobs of a study that have not ended yet, as the one process that owns it.

    Args:
        sweep: the study.
        arms: its arms, matched.
        runs: folder of run folders and stores.
        source: makes the source of jobs, once this process owns the study.
        command: the shell command that does this.
        show: called with what there is to show, a few times a second.

    Raises:
        ConfigError: another process owns the study, or it was registered with another plan or
            with other dials.
        SweepInterruptedError: Ctrl-C or SIGTERM; children are stopped, their jobs given back.
    """
    folder = runs / sweep.name
    with owned(folder, sweep), _stop_signals() as stop:
        record = register(folder, sweep, {arm.name: arm.setting for arm in arms})
        start_server(sweep.threads)  # loads while the stores are opened
        jobs = source()
        store = Store(runs)
        store.close_orphans(sweep.name)
        parent = store.start_study(
            sweep.name,
            question=sweep.question,
            objectives=list(zip(sweep.objectives, sweep.directions, strict=True)),
            contract=sweep.contract.model_dump(),
            arms=[arm.name for arm in arms],
            command=command,
            tags={
                "mlflow.source.git.commit": record["commit"],
                "hmoe.git_dirty": record["dirty"],
                "hmoe.versions": record["versions"],
                **parent_tags(folder, sweep),
            },
        )
        state = "interrupted"
        try:
            with spared_collection():
                _Loop(sweep, runs, jobs, store, parent, show).run(stop)
            store.tag_study(parent, end_tags(folder, sweep, read_study(runs, sweep.name)))
            if stop:
                raise SweepInterruptedError(f"stopped; go on with: {command}")
            state = "complete"
        finally:
            store.finish_study(parent, state=state)


class _Loop(Generic[J]):
    """The jobs under way, and what to do when one ends."""

    def __init__(
        self,
        sweep: Sweep,
        runs: Path,
        source: Source[J],
        store: Store,
        parent: str,
        show: Callable[[Progress], None],
    ) -> None:
        self.sweep, self.runs, self.source, self.store = sweep, runs, source, store
        self.parent, self._show = parent, show
        self.under_way: list[Work[J]] = []
        self._all_begun = False

    def run(self, stop: Sequence[int]) -> None:
        """Work until every job has ended or `stop` holds a signal."""
        uploaded = time.monotonic()
        try:
            while not stop and (self.under_way or not self._all_begun):
                self._fill()
                for work in tuple(self.under_way):
                    gone = not work.running()  # asked first, so that its last line is seen
                    if (pruned := self.source.verdict(work.job, work.folder)) or gone:
                        self._ended(work, pruned)
                if time.monotonic() - uploaded > _UPLOAD_SECONDS:
                    for work in self.under_way:
                        self.store.append_events(work.run_id, work.folder)
                    self.show()
                    uploaded = time.monotonic()
                self._wait()
        finally:
            # Reached with work under way only by a stop or a defect: leave nothing running.
            for work in self.under_way:
                if work.child is not None:
                    work.child.stop()
            for work in self.under_way:
                self.source.interrupt(work.job)
                self.store.finish(work.run_id, work.folder, state="interrupted")

    def _wait(self) -> None:
        """Until a process has ended, but come round to look for signals and events."""
        children = [work.child for work in self.under_way if work.child is not None]
        if len(children) == len(self.under_way):  # one without has ended before it began
            Child.wait_for_one(children, _POLL_SECONDS)

    def show(self, message: str = "") -> None:
        self._show(Progress(message, self.source.states()))

    def _fill(self) -> None:
        """Start jobs while workers are free and jobs are left."""
        while len(self.under_way) < self.sweep.workers and not self._all_begun:
            if job := self.source.ask():
                self._start(job)
            self._all_begun = job is None

    def _start(self, job: J) -> None:
        folder = self.runs / self.sweep.name / job.place
        overrides = job.overrides
        command = shlex.join(["hmoe", "train", *overrides])
        threads = job.arm.cfg.trainer.threads or self.sweep.threads
        try:
            cfg = compose([*overrides, f"trainer.threads={threads}"])
        except ConfigError as error:  # what was drawn does not go with this arm
            cfg = None
            write_failure(folder, error)
        if cfg is not None and changed_settings(folder, cfg):
            shutil.rmtree(folder)  # left by a run that is not this one
        run_id = self.store.start_run(
            folder,
            study=self.sweep.name,
            kind=job.kind,
            name=job.place,
            arm=job.arm.name,
            seed=job.seed,
            command=command,
            parent=self.parent,
            swept=settings_of(job.drawn),
        )
        work = Work(job, folder, run_id, command, cfg)
        self.under_way.append(work)
        if cfg is not None and not (folder / "result.json").exists():
            work.start()

    def _ended(self, work: Work[J], pruned: str) -> None:
        """Tell source and MLflow how a job ended; let it go on if its process was lost."""
        if pruned and work.child is not None:
            work.child.stop()
        state, reason = Child.outcome_of(work.folder, work.child)
        if pruned and state == "killed":  # one that had ended by itself has ended as it did
            state, reason = "pruned", pruned
        if state == "killed" and work.newest_checkpoint() != work.lost_at:
            work.lost_at = work.newest_checkpoint()
            work.start()
            self.show(f"{work.job.label}: {reason}; going on from its last checkpoint")
            return
        if state == "killed":
            state, reason = "failed", f"{reason}, twice at the same step"
        result = work.folder / "result.json"
        metrics = json.loads(result.read_text())["metrics"] if state == "complete" else None
        self.store.finish(work.run_id, work.folder, state=state, reason=reason or None)
        self.source.tell(work.job, metrics, reason, pruned=state == "pruned")
        self.under_way.remove(work)
        scores = {m: metrics[m] for m in work.job.arm.objectives if metrics and m in metrics}
        told = ", ".join(f"{m} {score:.4g}" for m, score in scores.items())
        told = told or f"{state}: {reason}".removeprefix("pruned: ")  # its reason says so
        self.show(f"{work.job.label}: {told}")


@contextmanager
def _stop_signals() -> Iterator[Sequence[int]]:
    """Ctrl-C and SIGTERM are noted, not raised: what is being told and stored is told whole."""
    noted: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {n: signal.signal(n, lambda number, _: noted.append(number)) for n in numbers}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
