"""The plan: what a sweep will take in time, memory and disk, told before any training.

Time and memory come from a probe of a few steps an arm, kept beside the study's runs, so that
`hmoe sweep` after `hmoe plan` takes none again. A contract on seconds holds on to the first ones:
a sweep that goes on has the plan that it began with.
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hmoe.config import build
from hmoe.errors import ConfigError
from hmoe.layer import Tree
from hmoe.study.contract import PlannedArm, compose_arms, match_arms, timed
from hmoe.study.drift import drifts
from hmoe.study.faults import faults
from hmoe.study.probes import ROUNDS, Probes
from hmoe.study.pruning import rung_steps
from hmoe.study.registration import check_plan, other_dials
from hmoe.study.search import check_search
from hmoe.study.spec import Sweep
from hmoe.study.vetting import vet
from hmoe.training import Probe, probe, start_server

# What is kept on disk beside the numbers in a checkpoint, as measured; a line of an event log is
# in the run's folder and once more, value by value, in MLflow.
_STUDY_BYTES = 6_000_000  # the report, and MLflow's empty tables
_RUN_BYTES = 100_000  # configuration and result, twice
_LINE_BYTES = 1_000
_VALIDATION_BYTES = 6_000
# A validation also keeps what each mixture chose, compressed by about half: the expert of at most
# 8,192 tokens, 2 bytes each, and the load of every expert, 8 bytes.
_CHOICE_BYTES = 8_192
_LOAD_BYTES = 4
_CHECKPOINT_BYTES = 40_000
_PROBES = "probe.json"
_MOMENTS = 2  # that AdamW keeps of every parameter


@dataclass(frozen=True)
class ArmPlan:
    """What one arm will take.

    Attributes:
        arm: the arm, matched.
        trials: of the search.
        confirmations: runs on fresh seeds.
        probe: what was measured, None without a probe.
        minutes: until the workers have been through its runs, none of them pruned; None without
            a probe.
        least_minutes: the same if every trial is stopped at its first rung, which is the least
            that pruning can leave; without pruning it is `minutes`.
        device_hours: of CPU cores, or of GPUs; None without a probe.
        disk_bytes: of its runs.
        doubt: share by which the seconds of a run, beside those of the contract's reference, may
            be other than they are here; None unless both were measured in turns.
    """

    arm: PlannedArm
    trials: int
    confirmations: int
    probe: Probe | None
    minutes: float | None
    least_minutes: float | None
    device_hours: float | None
    disk_bytes: int
    doubt: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a sweep will take.

    Attributes:
        sweep: the study.
        arms: its arms in order.
        free_bytes: on the disk of the runs.
        used_bytes: by the study's runs so far.
        faults: why it cannot start, one a line; none if it can.
    """

    sweep: Sweep
    arms: tuple[ArmPlan, ...]
    free_bytes: int
    used_bytes: int
    faults: tuple[str, ...]

    @property
    def planned(self) -> list[PlannedArm]:
        """The arms as they will run."""
        return [row.arm for row in self.arms]

    @property
    def disk_bytes(self) -> int:
        """Of all runs, of the study, and of checkpoints being written beside those kept."""
        aside = self.sweep.workers * max(_checkpoint_bytes(arm) for arm in self.planned)
        return _STUDY_BYTES + sum(row.disk_bytes for row in self.arms) + aside

    @property
    def minutes(self) -> float | None:
        """Until the workers have been through all runs; None if an arm was not probed."""
        return _sum(row.minutes for row in self.arms)

    @property
    def least_minutes(self) -> float | None:
        """The same if every trial is stopped at its first rung."""
        return _sum(row.least_minutes for row in self.arms)

    @property
    def device_hours(self) -> float | None:
        """Of CPU cores, or of GPUs; None if an arm was not probed."""
        return _sum(row.device_hours for row in self.arms)

    @property
    def device(self) -> str:
        """ "cuda" or "cpu", "" without a probe."""
        return next((row.probe.device for row in self.arms if row.probe), "")

    def check(self) -> None:
        """Raise ConfigError if the sweep cannot start: unmatched arms, twins, a short disk."""
        if self.faults:
            raise ConfigError("\n".join(self.faults))


def plan_sweep(sweep: Sweep, runs: Path, *, measure: bool | int) -> Plan:
    """Match the arms of a sweep and foretell what it takes.

    Args:
        sweep: the study.
        runs: folder of run folders and stores.
        measure: probe the arms that have not been; else only what is known already is told. A
            number says in how many rounds, where a contract on seconds needs several.

    Raises:
        ConfigError: the study began under another plan, an arm does not compose, what is searched
            cannot be, a dial cannot be turned, or a probe fails. Other faults are told by
            `Plan.check`, so that the plan can be shown first.
    """
    folder = runs / sweep.name
    kept = folder / _PROBES
    check_plan(folder, sweep)
    composed = compose_arms(sweep)
    vet(sweep, composed)
    if measure and not kept.exists():
        start_server(sweep.threads)  # loads while the arms are matched
    probes = Probes(kept, sweep, probe if measure else None)
    if measure and sweep.contract.match == "seconds":
        probes.take_turns(composed, rounds=ROUNDS if measure is True else measure)
    arms = match_arms(sweep, composed, probes.seconds)
    # Only of arms that are matched can it be said that their trials are not.
    wrong = [*(faults(sweep, arms) or drifts(sweep, arms)), *_search_faults(sweep, arms)]
    if wrong:
        probes = Probes(kept, sweep, None)  # what cannot start is not measured
    arms = [timed(arm, probes.seconds) for arm in arms]
    free = shutil.disk_usage(_nearest_folder(runs)).free
    used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    (reference,) = (arm for arm in composed if arm.name == sweep.contract.reference)
    rows = tuple(
        replace(_row(sweep, arm, probes.known(arm.cfg)), doubt=probes.doubt(arm, reference))
        for arm in arms
    )
    if not wrong and (changes := other_dials(folder, {arm.name: arm.setting for arm in arms})):
        wrong = [changes]
    plan = Plan(sweep, rows, free, used, tuple(wrong))
    needed = plan.disk_bytes - used
    if needed > free:
        short = (
            f"sweep {sweep.name}: runs = {runs}: {needed:,} bytes are needed (about), and "
            f"{free:,} are free on that disk. Make room, choose another with runs=, or "
            "plan fewer trials."
        )
        plan = replace(plan, faults=(*plan.faults, short))
    return plan


def planned_arms(sweep: Sweep, runs: Path) -> list[PlannedArm]:
    """The arms of a study that has begun, matched by what was measured when it did.

    Raises:
        ConfigError: an arm does not compose, or a dial cannot be turned.
    """
    probes = Probes(runs / sweep.name / _PROBES, sweep, None)
    return match_arms(sweep, compose_arms(sweep), probes.seconds)


def _row(sweep: Sweep, arm: PlannedArm, found: Probe | None) -> ArmPlan:
    confirmations = 0
    if sweep.confirm is not None and arm.name in sweep.confirmed:
        confirmations = sweep.confirm.seeds
    num_runs = sweep.trials_per_arm + confirmations
    minutes = least = hours = None
    if found is not None and arm.spend.seconds is not None:
        seconds = num_runs * arm.spend.seconds
        minutes = seconds / sweep.workers / 60
        saved = sweep.trials_per_arm * (arm.spend.seconds - _least_seconds(sweep, arm, found))
        least = minutes - saved / sweep.workers / 60
        # Workers have cores of their own, but share the one GPU.
        hours = minutes / 60 if found.device == "cuda" else seconds * found.threads / 3600
    return ArmPlan(
        arm=arm,
        trials=sweep.trials_per_arm,
        confirmations=confirmations,
        probe=found,
        minutes=minutes,
        least_minutes=least,
        device_hours=hours,
        disk_bytes=num_runs * _run_bytes(arm),
    )


def _least_seconds(sweep: Sweep, arm: PlannedArm, found: Probe) -> float:
    """Of a trial that is stopped at its first rung, or of a whole one where there is none."""
    options = build(arm.cfg.trainer)
    if sweep.search.pruning is None:
        return found.seconds(options)
    try:
        first, *_ = rung_steps(sweep.search.pruning, options.max_steps, options.val_every)
    except ConfigError:  # told among the faults of the plan
        return found.seconds(options)
    return found.seconds(replace(options, max_steps=first))


def _run_bytes(arm: PlannedArm) -> int:
    """What a run leaves on disk: its checkpoints, its numbers, and what every run has."""
    options = arm.cfg.trainer
    lines = options.max_steps // options.log_every
    validations = -(-options.max_steps // options.val_every)
    logs = _RUN_BYTES + lines * _LINE_BYTES + validations * _validation_bytes(arm)
    saved = -(-options.max_steps // options.checkpoint_every)
    kept = saved if options.keep_checkpoints is None else min(saved, options.keep_checkpoints)
    return logs + kept * _checkpoint_bytes(arm)


def _validation_bytes(arm: PlannedArm) -> int:
    if not arm.cost.num_mixtures:
        return _VALIDATION_BYTES
    tree: Tree = build(arm.cfg.tree)
    moment = _CHOICE_BYTES + _LOAD_BYTES * tree.num_experts
    return _VALIDATION_BYTES + arm.cost.num_mixtures * moment


def _checkpoint_bytes(arm: PlannedArm) -> int:
    per_number = 2 if arm.cfg.trainer.precision == "bf16-true" else 4
    return _CHECKPOINT_BYTES + arm.cost.total_params * per_number * (1 + _MOMENTS)


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _search_faults(sweep: Sweep, arms: Sequence[PlannedArm]) -> list[str]:
    try:
        check_search(sweep, arms)
    except ConfigError as error:
        return [str(error)]
    return []


def _nearest_folder(path: Path) -> Path:
    """The folder itself or the first above it that is there."""
    return next(here for here in [path.resolve(), *path.resolve().parents] if here.is_dir())
