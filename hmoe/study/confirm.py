"""The confirmation: the best configuration of each arm, trained again on fresh seeds.

A search picks what looks best, so the scores of its picks are flattered. Here the picks of all arms
train on the same seeds, none of which the search has seen, and look at the test set, once. Which
configurations they are is chosen and stored once, in chosen.json; how each run ended is kept in
ended.json beside it. A confirmation that was stopped in any way goes on where it was.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hmoe.config import compose, digest
from hmoe.errors import ConfigError
from hmoe.files import write_atomically
from hmoe.study.contract import PlannedArm
from hmoe.study.invocations import looks, note
from hmoe.study.job import UNENDED, Job, JobState
from hmoe.study.registration import CHOSEN, kept_choice, num_seeds, registered
from hmoe.study.runner import Progress, run_jobs
from hmoe.study.search import Ended, Search, best, place_of
from hmoe.study.spec import Sweep

_ENDED = "confirm/ended.json"
_FRESH = 1000  # how far the seeds lie above the first of the search


@dataclass(frozen=True)
class Choice:
    """The trial whose configuration stands for an arm.

    Attributes:
        slot: of the trial.
        drawn: its searched settings, as overrides.
        value: what it reached on the first objective that the arm has.
        seconds: for which it trained.
    """

    slot: int
    drawn: Sequence[str]
    value: float
    seconds: float


@dataclass(frozen=True)
class Chosen:
    """What a confirmation trains: every choice on every seed.

    Attributes:
        choices: by arm, the contract's reference among them.
        left_out: arms that cannot be confirmed, and why.
        seeds: the same for all arms.
    """

    choices: dict[str, Choice]
    left_out: dict[str, str]
    seeds: list[int]


def plan_confirmation(sweep: Sweep, arms: Sequence[PlannedArm], runs: Path) -> Chosen:
    """Choose what is confirmed, or read what was chosen before. Writes nothing.

    Raises:
        ConfigError: the sweep plans no confirmation, is not complete, was registered with another
            plan, its reference has no trial that may be confirmed, or all arms came to one
            configuration.
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
        return Chosen(choices, kept["left_out"], seeds)
    ended = Search(sweep, arms, runs).ended()
    if len(ended) < sweep.budget.trials:
        raise ConfigError(
            f"sweep={sweep.name}: {len(ended)} of budget.trials={sweep.budget.trials} trials have "
            "ended; only a complete search is confirmed. Go on with "
            f"`hmoe sweep sweep={sweep.name}`."
        )
    found, choices, left_out = best(sweep, ended), {}, {}
    for arm in arms:
        if arm.name not in sweep.confirmed:
            continue
        if end := found.get(arm.name):
            choices[arm.name] = _choice(end, end.values[arm.objectives[0]], folder)
        else:
            left_out[arm.name] = _why_not([end for end in ended if end.arm == arm.name])
    if sweep.contract.reference in left_out:
        raise ConfigError(
            f"sweep={sweep.name}: the reference '{sweep.contract.reference}' cannot be confirmed: "
            f"{left_out[sweep.contract.reference]}."
        )
    twins = _twins(sweep, arms, choices)
    if twins and len(twins) == len(choices) - 1:
        told = "; ".join(f"{arm}: {why}" for arm, why in twins.items())
        raise ConfigError(f"sweep={sweep.name}: there is nothing to confirm. {told}.")
    chosen = {name: choice for name, choice in choices.items() if name not in twins}
    return Chosen(chosen, left_out | twins, seeds)


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
    plan: Chosen,
    *,
    command: str,
    show: Callable[[Progress], None],
) -> None:
    """Run what of a planned confirmation has not ended yet; `run_jobs` says what is raised."""
    folder = runs / sweep.name

    def source() -> Confirmation:
        # Another process may have chosen since the plan was made: what was stored first stands.
        now = plan_confirmation(sweep, arms, runs) if kept_choice(folder) else plan
        chosen = {name: asdict(choice) for name, choice in now.choices.items()}
        record = {"seeds": len(now.seeds), "arms": chosen, "left_out": now.left_out}
        (folder / CHOSEN).parent.mkdir(exist_ok=True)
        write_atomically(folder / CHOSEN, json.dumps(record, indent=1))
        found = Confirmation(now, arms, folder)
        found.note_look()  # a kill may have come between the last end and its note
        if UNENDED & set(found.states().values()):
            note(folder, command=command, question=sweep.question, seeds=len(now.seeds))
        return found

    run_jobs(sweep, arms, runs, source=source, command=command, show=show)


class Confirmation:
    """Source of the runs of a confirmation, seed by seed, so that what is there is always paired.

    To make one writes nothing, so that a study can be looked at.

    Args:
        plan: what is confirmed.
        arms: the arms of the study, matched.
        folder: that of the study; holds `confirm/`.
    """

    def __init__(self, plan: Chosen, arms: Sequence[PlannedArm], folder: Path) -> None:
        chosen = [arm for arm in arms if arm.name in plan.choices]
        self._jobs = [
            _job(arm, plan.choices[arm.name], seed) for seed in plan.seeds for arm in chosen
        ]
        self._folder, self._path = folder, folder / _ENDED
        self._num_seeds = len(plan.seeds)
        self._reasons: dict[str, str] = {}
        if self._path.exists():
            self._reasons = json.loads(self._path.read_text(encoding="utf-8"))
        self._begun = set(self._reasons)

    def ask(self) -> Job | None:
        """The next run; None when all have begun."""
        job = next((job for job in self._jobs if job.place not in self._begun), None)
        if job is not None:
            self._begun.add(job.place)
        return job

    def verdict(self, job: Job, folder: Path) -> str:
        """A run that confirms is never stopped early."""
        return ""

    def tell(
        self,
        job: Job,
        metrics: Mapping[str, float] | None,
        reason: str = "",
        *,
        pruned: bool = False,
    ) -> None:
        """End a run. Its metrics are in its folder; kept here is that it ended, and why so."""
        self._reasons[job.place] = reason
        write_atomically(self._path, json.dumps(self._reasons, indent=1))
        self.note_look()

    def interrupt(self, job: Job) -> None:
        """Give back a run that was stopped on purpose."""
        self._begun.discard(job.place)

    def states(self) -> dict[str, JobState]:
        """The state of every run, by its folder below that of the study."""
        return {job.place: self._state(job.place) for job in self._jobs}

    def note_look(self) -> None:
        """Write down once at how many seeds all runs have ended: there the verdicts are read.

        Seeds added after such a look are added in the knowledge of what it said.
        """
        complete = self._reasons.keys() >= {job.place for job in self._jobs}
        if complete and self._num_seeds not in looks(self._folder):
            note(self._folder, looked=self._num_seeds)

    def _state(self, place: str) -> JobState:
        if place in self._reasons:
            return "failed" if self._reasons[place] else "complete"
        return "running" if place in self._begun else "waiting"


def _job(arm: PlannedArm, choice: Choice, seed: int) -> Job:
    place = f"confirm/{arm.name}/seed_{seed}"
    return Job(
        kind="confirm",
        arm=arm,
        drawn=choice.drawn,
        seed=seed,
        label=place,
        place=place,
    )


def _twins(
    sweep: Sweep, arms: Sequence[PlannedArm], choices: Mapping[str, Choice]
) -> dict[str, str]:
    """Arms whose choice is the configuration of an earlier arm, or of the reference, and why."""
    first: dict[str, str] = {}
    found = {}
    for arm in sorted(arms, key=lambda arm: arm.name != sweep.contract.reference):
        if choice := choices.get(arm.name):
            own = digest(compose([*arm.overrides, *choice.drawn]))
            other = first.setdefault(own, arm.name)
            if other != arm.name:
                found[arm.name] = (
                    f"its best trial has the very configuration of the best of '{other}', so that "
                    "both would give the same numbers"
                )
    return found


def _choice(end: Ended, value: float, folder: Path) -> Choice:
    result = json.loads((folder / place_of(end.arm, end.slot) / "result.json").read_text())
    return Choice(end.slot, end.drawn, value, result["cost"]["seconds"])


def _why_not(own: Sequence[Ended]) -> str:
    """Why none of the trials of an arm may stand for it."""
    complete = sum(end.state == "complete" for end in own)
    if complete:
        return f"none of its {complete} complete trials is within search.bounds"
    return f"none of its {len(own)} trials is complete"
