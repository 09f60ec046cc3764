"""The runner: ask, train in a child process, tell, until every planned trial has ended.

Only this process talks to Optuna and to MLflow. Children train and write files; their files, not
their exit status, say how they ended. Stop it in any way and start it again with the same command:
it goes on where it was.
"""

import json
import os
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hmoe.config import compose
from hmoe.errors import ConfigError, HmoeError
from hmoe.files import write_atomically
from hmoe.study.contract import PlannedArm
from hmoe.study.registration import diff_fingerprints, fingerprint
from hmoe.study.search import Search, Ticket
from hmoe.study.space import settings_of
from hmoe.study.spec import Sweep
from hmoe.tracking import Store
from hmoe.training import (
    Child,
    changed_settings,
    held,
    provenance,
    spared_collection,
    start_server,
    write_failure,
)

_POLL_SECONDS = 0.1
_UPLOAD_SECONDS = 2.0
_TAIL_BYTES = 65536  # of an event log: a line and more


class SweepInterruptedError(HmoeError):
    """The sweep was stopped on purpose; its running trials wait to be gone on with."""


@dataclass
class Work:
    """One trial under way.

    Attributes:
        lost_at: newest checkpoint when its process was last lost, "" without any; None if it never
            was.
    """

    ticket: Ticket
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

    def steps_done(self) -> int:
        """Steps by the last line of the event log."""
        try:
            with (self.folder / "events.jsonl").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                return json.loads(file.read().splitlines()[-1])["step"]
        except (OSError, ValueError, IndexError):
            return 0


@dataclass(frozen=True)
class Progress:
    """What there is to show while a sweep runs.

    Attributes:
        message: a line to keep, such as how a trial ended; "" for none.
        done_steps, total_steps: training steps of all planned trials.
        done_trials, total_trials: trials that have ended, and all.
    """

    message: str
    done_steps: int
    total_steps: int
    done_trials: int
    total_trials: int


def run_sweep(
    sweep: Sweep,
    arms: Sequence[PlannedArm],
    runs: Path,
    *,
    command: str,
    show: Callable[[Progress], None],
) -> str:
    """Run all trials of a sweep that have not ended yet. Returns the id of the parent run.

    Args:
        sweep: the study.
        arms: its arms, matched.
        runs: folder of run folders and stores.
        command: the shell command of the sweep.
        show: called with what there is to show, a few times a second.

    Raises:
        ConfigError: another process owns the study, or the study has trials under another plan.
        SweepInterruptedError: Ctrl-C or SIGTERM; children are stopped, their trials queued again.
    """
    folder = runs / sweep.name
    busy = "wait for it, look at it with `hmoe status`, or give this sweep another name=."
    with held(folder, f"sweep={sweep.name}", busy), _stop_signals() as stop:
        _keep_plan(folder, sweep)
        start_server(sweep.threads)  # loads while the stores are opened
        store = Store(runs)
        store.close_orphans(sweep.name)
        parent = store.start_study(
            sweep.name,
            question=sweep.question,
            objectives=list(zip(sweep.objectives, sweep.directions, strict=True)),
            contract=sweep.contract.model_dump(),
            arms=[arm.name for arm in arms],
            command=command,
            tags=_provenance_tags(),
        )
        state = "interrupted"
        try:
            search = Search(sweep, arms, runs)
            search.recover()
            with spared_collection():
                _Loop(sweep, arms, runs, search, store, parent, show).run(stop)
            if stop:
                raise SweepInterruptedError(f"stopped; go on with: {command}")
            state = "complete"
        finally:
            store.finish_study(parent, state=state)
    return parent


class _Loop:
    """The trials under way, and what to do when one ends."""

    def __init__(
        self,
        sweep: Sweep,
        arms: Sequence[PlannedArm],
        runs: Path,
        search: Search,
        store: Store,
        parent: str,
        show: Callable[[Progress], None],
    ) -> None:
        self.sweep, self.runs, self.search, self.store = sweep, runs, search, store
        self.parent, self._show = parent, show
        self.total_steps = sum(arm.cfg.trainer.max_steps for arm in arms) * sweep.trials_per_arm
        self.under_way: list[Work] = []
        self._all_begun = False

    def run(self, stop: Sequence[int]) -> None:
        """Work until every trial has ended or `stop` holds a signal."""
        uploaded = time.monotonic()
        try:
            while not stop and (self.under_way or not self._all_begun):
                self._fill()
                for work in [work for work in self.under_way if not work.running()]:
                    self._ended(work)
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
                self.search.interrupt(work.ticket)
                self.store.finish(work.run_id, work.folder, state="interrupted")

    def _wait(self) -> None:
        """Until a process has ended, but come round to look for signals and events."""
        children = [work.child for work in self.under_way if work.child is not None]
        if len(children) == len(self.under_way):  # one without has ended before it began
            Child.wait_for_one(children, _POLL_SECONDS)

    def show(self, message: str = "") -> None:
        ended = self.search.ended()
        steps = {work.folder: work.steps_done() for work in self.under_way}
        per_trial = self.total_steps // self.sweep.budget.trials
        done = len(ended) * per_trial + sum(steps.values())
        total = self.sweep.budget.trials
        self._show(Progress(message, done, self.total_steps, len(ended), total))

    def _fill(self) -> None:
        """Start trials while workers are free and trials are left."""
        while len(self.under_way) < self.sweep.workers and not self._all_begun:
            if ticket := self.search.ask():
                self._start(ticket)
            self._all_begun = ticket is None

    def _start(self, ticket: Ticket) -> None:
        arm, seed = ticket.arm, self.sweep.seed + ticket.slot
        folder = self.runs / self.sweep.name / arm.name / f"trial_{ticket.slot:03d}"
        overrides = [*arm.overrides, *ticket.drawn, f"seed={seed}", "test=false"]
        command = shlex.join(["hmoe", "train", *overrides])
        threads = arm.cfg.trainer.threads or self.sweep.threads
        try:
            cfg = compose([*overrides, f"trainer.threads={threads}"])
        except ConfigError as error:  # what was drawn does not go with this arm
            cfg = None
            write_failure(folder, error)
        if cfg is not None and changed_settings(folder, cfg):
            shutil.rmtree(folder)  # left by a trial that is not this one
        run_id = self.store.start_run(
            folder,
            study=self.sweep.name,
            kind="trial",
            name=f"{arm.name}-{ticket.slot}",
            arm=arm.name,
            seed=seed,
            command=command,
            parent=self.parent,
            swept=settings_of(ticket.drawn),
        )
        work = Work(ticket, folder, run_id, command, cfg)
        self.under_way.append(work)
        if cfg is not None and not (folder / "result.json").exists():
            work.start()

    def _ended(self, work: Work) -> None:
        """Tell Optuna and MLflow how a trial ended; let it go on if its process was lost."""
        state, reason = Child.outcome_of(work.folder, work.child)
        if state == "killed" and work.newest_checkpoint() != work.lost_at:
            work.lost_at = work.newest_checkpoint()
            work.start()
            self.show(f"{_label(work.ticket)}: {reason}; going on from its last checkpoint")
            return
        if state == "killed":
            state, reason = "failed", f"{reason}, twice at the same step"
        values = None
        if state == "complete":
            metrics = json.loads((work.folder / "result.json").read_text())["metrics"]
            values = {name: metrics[name] for name in work.ticket.arm.objectives}
        self.store.finish(work.run_id, work.folder, state=state, reason=reason or None)
        self.search.tell(work.ticket, None if values is None else list(values.values()), reason)
        self.under_way.remove(work)
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in (values or {}).items())
        self.show(f"{_label(work.ticket)}: {numbers or f'{state}: {reason}'}")


def _label(ticket: Ticket) -> str:
    trial = f"{ticket.arm.name} trial {ticket.slot + 1}"
    return f"{trial} ({' '.join(ticket.drawn)})" if ticket.drawn else trial


def _keep_plan(folder: Path, sweep: Sweep) -> None:
    """Keep what defines the study beside its runs; refuse to go on under another plan."""
    path = folder / "sweep.json"
    now = json.loads(json.dumps(fingerprint(sweep)))
    if path.exists():
        changes = diff_fingerprints(json.loads(path.read_text()), now)
        if changes:
            raise ConfigError(
                f"sweep={sweep.name}: the study in {folder} was started under another plan:\n  "
                + "\n  ".join(changes)
                + "\nIts trials and new ones could not be compared. Start a new study with name=."
            )
    write_atomically(path, json.dumps(now, indent=1))


def _provenance_tags() -> Mapping[str, Any]:
    facts = provenance()
    return {
        "mlflow.source.git.commit": facts["git_commit"] or "unknown",
        "hmoe.git_dirty": facts["git_dirty"],
        "hmoe.versions": facts["versions"],
    }


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
