"""The confirmation: the best configuration of each arm, trained again on fresh seeds.

A search picks what looks best, so the scores of its picks are flattered. Here the picks of all arms
train on the same seeds, none of which the search has seen, and look at the test set, once. Which
configurations they are is chosen and stored once, in chosen.json; how each run ended is kept in
ended.json beside it. A confirmation that was stopped in any way goes on where it was.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hmoe.errors import ConfigError
from hmoe.files import write_atomically
from hmoe.metrics import direction
from hmoe.study.contract import PlannedArm
from hmoe.study.job import Job
from hmoe.study.registration import CHOSEN, kept_choice, num_seeds, registered
from hmoe.study.runner import Progress, run_jobs
from hmoe.study.search import Search, place_of
from hmoe.study.spec import Sweep

_ENDED = "confirm/ended.json"
_FRESH = 1000  # how far the seeds lie above the first of the search


@dataclass(frozen=True)
class Choice:
    """The trial whose configuration stands for an arm.

    Attributes:
        slot: of the trial.
        drawn: its searched settings, as overrides.
        value: what it reached on the arm's first objective.
        seconds: for which it trained.
    """

    slot: int
    drawn: Sequence[str]
    value: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a confirmation trains: every choice on every seed.

    Attributes:
        choices: by arm, the contract's reference among them.
        left_out: arms that cannot be confirmed, and why.
        seeds: the same for all arms.
    """

    choices: dict[str, Choice]
    left_out: dict[str, str]
    seeds: list[int]


def plan_confirmation(sweep: Sweep, arms: Sequence[PlannedArm], runs: Path) -> Plan:
    """Choose what is confirmed, or read what was chosen before. Writes nothing.

    Raises:
        ConfigError: the sweep plans no confirmation, is not complete, was registered with another
            plan, or its reference has no trial that may be confirmed.
    """
    if sweep.confirm is None:
        raise ConfigError(
            f"sweep={sweep.name}: plans no confirmation. A section confirm: with seeds and margins "
            "belongs in the sweep file before the first trial."
        )
    folder = runs / sweep.name
    registered(folder, sweep)
    seeds = fresh_seeds(sweep, num_seeds(folder, sweep))
    if kept := kept_choice(folder):
        choices = {name: Choice(**choice) for name, choice in kept["arms"].items()}
        return Plan(choices, kept["left_out"], seeds)
    search = Search(sweep, arms, runs)
    ended = len(search.ended())
    if ended < sweep.budget.trials:
        raise ConfigError(
            f"sweep={sweep.name}: {ended} of budget.trials={sweep.budget.trials} trials have ended;"
            f" only a complete search is confirmed. Go on with `hmoe sweep sweep={sweep.name}`."
        )
    choices, left_out = {}, {}
    for arm in arms:
        if arm.name in {sweep.contract.reference, *_wanted(sweep)}:
            try:
                choices[arm.name] = _choose(sweep, arm, search, folder)
            except _NothingToConfirmError as reason:
                left_out[arm.name] = str(reason)
    if sweep.contract.reference in left_out:
        raise ConfigError(
            f"sweep={sweep.name}: the reference '{sweep.contract.reference}' cannot be confirmed: "
            f"{left_out[sweep.contract.reference]}."
        )
    return Plan(choices, left_out, seeds)


def fresh_seeds(sweep: Sweep, number: int) -> list[int]:
    """Seeds that no trial of the sweep has.

    Raises:
        ConfigError: the trials of an arm are so many that they reach them.
    """
    first = sweep.seed + _FRESH
    if sweep.trials_per_arm > _FRESH:
        raise ConfigError(
            f"budget.trials={sweep.budget.trials}: the {sweep.trials_per_arm} trials of an arm "
            f"have the seeds {sweep.seed} to {sweep.seed + sweep.trials_per_arm - 1}, and those of "
            f"the confirmation begin at {first}: they must be fresh. At most {_FRESH} trials an arm"
            " can be confirmed."
        )
    return list(range(first, first + number))


def run_confirmation(
    sweep: Sweep,
    arms: Sequence[PlannedArm],
    runs: Path,
    *,
    command: str,
    show: Callable[[Progress], None],
) -> None:
    """Run what of the confirmation has not ended yet; `run_jobs` says what else is raised.

    Raises:
        ConfigError: as `plan_confirmation`.
    """
    plan_confirmation(sweep, arms, runs)  # a refusal leaves everything as it is

    def source() -> Confirmation:
        plan = plan_confirmation(sweep, arms, runs)
        chosen = {name: asdict(choice) for name, choice in plan.choices.items()}
        record = {"seeds": len(plan.seeds), "arms": chosen, "left_out": plan.left_out}
        folder = runs / sweep.name
        (folder / CHOSEN).parent.mkdir(exist_ok=True)
        write_atomically(folder / CHOSEN, json.dumps(record, indent=1))
        return Confirmation(plan, arms, folder)

    run_jobs(sweep, arms, runs, source=source, command=command, show=show)


class Confirmation:
    """Source of the runs of a confirmation, seed by seed, so that what is there is always paired.

    Args:
        plan: what is confirmed.
        arms: the arms of the study, matched.
        folder: that of the study; holds `confirm/`.
    """

    def __init__(self, plan: Plan, arms: Sequence[PlannedArm], folder: Path) -> None:
        chosen = [arm for arm in arms if arm.name in plan.choices]
        self._jobs = [
            _job(arm, plan.choices[arm.name], seed) for seed in plan.seeds for arm in chosen
        ]
        self._path = folder / _ENDED
        self._reasons: dict[str, str] = {}
        if self._path.exists():
            self._reasons = json.loads(self._path.read_text(encoding="utf-8"))
        self._begun = set(self._reasons)

    @property
    def total(self) -> int:
        """Number of planned runs."""
        return len(self._jobs)

    @property
    def total_steps(self) -> int:
        """Training steps of all planned runs."""
        return sum(job.arm.cfg.trainer.max_steps for job in self._jobs)

    def ask(self) -> Job | None:
        """The next run; None when all have begun."""
        job = next((job for job in self._jobs if job.place not in self._begun), None)
        if job is not None:
            self._begun.add(job.place)
        return job

    def tell(self, job: Job, values: Sequence[float] | None, reason: str = "") -> None:
        """End a run. Its values are in its folder; kept here is that it ended, and why so."""
        self._reasons[job.place] = reason
        write_atomically(self._path, json.dumps(self._reasons, indent=1))

    def interrupt(self, job: Job) -> None:
        """Give back a run that was stopped on purpose."""
        self._begun.discard(job.place)

    def ended(self) -> list[str]:
        """The run folders of all runs that have ended, below that of the study."""
        return list(self._reasons)


class _NothingToConfirmError(Exception):
    """No trial of an arm may stand for it."""


def _job(arm: PlannedArm, choice: Choice, seed: int) -> Job:
    return Job(
        kind="confirm",
        arm=arm,
        drawn=choice.drawn,
        seed=seed,
        name=f"{arm.name}-seed-{seed}",
        label=f"{arm.name} with seed {seed}",
        place=f"confirm/{arm.name}/seed_{seed}",
    )


def _choose(sweep: Sweep, arm: PlannedArm, search: Search, folder: Path) -> Choice:
    """The best complete trial of an arm by its first objective, among those within the bounds."""
    objective = arm.objectives[0]
    sign = 1 if direction(objective) == "minimize" else -1
    results: dict[int, dict[str, Any]] = {}
    for end in search.ended():
        path = folder / place_of(arm.name, end.slot) / "result.json"
        if end.arm == arm.name and end.values and path.exists():
            results[end.slot] = json.loads(path.read_text(encoding="utf-8"))
    if not results:
        raise _NothingToConfirmError(f"none of its {sweep.trials_per_arm} trials is complete")
    within = {slot: result for slot, result in results.items() if _within(sweep, result["metrics"])}
    if not within:
        raise _NothingToConfirmError(
            f"none of its {len(results)} complete trials is within search.bounds"
        )
    slot = min(within, key=lambda slot: (sign * within[slot]["metrics"][objective], slot))
    metrics, cost = within[slot]["metrics"], within[slot]["cost"]
    return Choice(slot, search.drawn(arm.name, slot), metrics[objective], cost["seconds"])


def _within(sweep: Sweep, metrics: dict[str, float]) -> bool:
    """Whether no bounded metric is worse than allowed; one that an arm lacks bounds it not."""
    return all(
        metrics[metric] <= worst if direction(metric) == "minimize" else metrics[metric] >= worst
        for metric, worst in sweep.search.bounds.items()
        if metric in metrics
    )
