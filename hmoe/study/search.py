"""The search: one Optuna study an arm, in one SQLite file with one writer.

Optuna holds the truth about which trials there are and how they ended. A trial of an arm is a
slot, 0 to trials_per_arm - 1; slot i of every arm trains with the same seed and draws from the same
random numbers, so that arms are paired. A trial that was stopped on the way is told as failed with
the mark "interrupted"; the next trial of its slot gets the same parameters and the verdicts of the
rungs that it had passed. A slot ends once: complete, failed or pruned.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState

from hmoe.config import keys, that_are_read
from hmoe.errors import ConfigError
from hmoe.study.contract import PlannedArm
from hmoe.study.job import Job, JobState
from hmoe.study.pruning import RUNG, SLOT, Pruner, excess_when_pruned
from hmoe.study.samplers import combinations, make_sampler
from hmoe.study.sections import turned
from hmoe.study.spec import Sweep
from hmoe.study.storage import kept_studies, made_studies

_DRAWN = "hmoe.drawn"
_REASON = "hmoe.reason"
_INTERRUPTED = "interrupted"
_STATES: dict[TrialState, JobState] = {
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "pruned",
}


@dataclass(frozen=True, kw_only=True)
class Ticket(Job):
    """A trial to be run, and what it is to Optuna."""

    slot: int
    trial: Trial


@dataclass(frozen=True)
class Ended:
    """How a slot ended.

    Attributes:
        arm, slot: which.
        state: complete, failed or pruned.
        values: its objectives by metric; none unless complete.
        reason: why it is not complete.
        drawn: its overrides beside those of its arm.
        excess: by how much each bounded metric is beyond its bound; 0 or less is within.
    """

    arm: str
    slot: int
    state: JobState
    values: Mapping[str, float]
    reason: str
    drawn: Sequence[str]
    excess: Mapping[str, float]


def best(sweep: Sweep, ended: Iterable[Ended]) -> dict[str, Ended]:
    """Of each arm the complete trial that is best within the bounds, by the arm's first objective.

    That is the first of the study that the arm has: a dense control has no load. Of equals the
    first. An arm that has none within the bounds is left out.
    """
    found: dict[str, Ended] = {}
    for one in sorted(ended, key=lambda e: e.slot):
        if one.state != "complete" or any(value > 0 for value in one.excess.values()):
            continue
        metric = next(metric for metric in sweep.objectives if metric in one.values)
        known = found.get(one.arm)
        if known is None or turned(metric, one.values[metric]) < turned(
            metric, known.values[metric]
        ):
            found[one.arm] = one
    return found


def check_search(sweep: Sweep, arms: Sequence[PlannedArm]) -> None:
    """Refuse a search that cannot be: a grid that the budget does not go through, or no rung.

    Raises:
        ConfigError: says what to change.
    """
    Pruner(sweep, arms)
    if sweep.search.sampler != "grid":
        return
    sizes = {arm.name: len(combinations_of(sweep, arm)) for arm in arms}
    if any(sweep.trials_per_arm % size for size in sizes.values()):
        told = ", ".join(f"{size} in arm '{name}'" for name, size in sizes.items())
        raise ConfigError(
            f"sweep {sweep.name}: search.sampler=grid: there are {told}; every arm gets "
            f"{sweep.trials_per_arm} trials, which must be a multiple of each, such as "
            f"budget.trials={math.lcm(*sizes.values()) * len(sizes)}"
        )


def draw(sweep: Sweep, arm: PlannedArm, trial: BaseTrial) -> list[str]:
    """Let a trial suggest what is searched; the overrides of it that the arm reads."""
    space = sweep.searched.only(keys(arm.cfg))
    return that_are_read(arm.cfg, space.suggest(trial, sweep.settings(arm.name)))


def combinations_of(sweep: Sweep, arm: PlannedArm) -> list[dict[str, Any]]:
    """The grid of an arm: all that its space can come to, once each, as Optuna's parameters."""
    return combinations(lambda trial: draw(sweep, arm, trial))


def place_of(arm: str, slot: int) -> str:
    """The run folder of a slot, below that of the study."""
    return f"{arm}/trial_{slot:03d}"


class Search:
    """Ask, judge and tell for all arms of a sweep. Make one in the process that owns the study.

    Args:
        reading: only look at what there is, from any process; Optuna's file is not written to.
    """

    def __init__(
        self, sweep: Sweep, arms: Sequence[PlannedArm], runs: Path, *, reading: bool = False
    ) -> None:
        self.sweep = sweep
        self.arms = {arm.name: arm for arm in arms}
        on_grid = self.arms if sweep.search.sampler == "grid" else {}
        self._pruner = Pruner(sweep, arms)
        self._grids = {name: combinations_of(sweep, arm) for name, arm in on_grid.items()}
        self._studies = (kept_studies if reading else made_studies)(sweep, arms, runs)

    def recover(self) -> int:
        """Give back the trials that a dead owner left running. Returns how many there were."""
        lost = [
            Trial(study, trial._trial_id)
            for study in self._studies.values()
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        ]
        for trial in lost:
            self._give_back(trial)
        return len(lost)

    def ask(self) -> Ticket | None:
        """The next trial of the arm that has begun the fewest; None when all have begun."""
        slots = set(range(self.sweep.trials_per_arm))
        left = {name: slots - self._begun(name) for name in self.arms}
        name = max(left, key=lambda n: len(left[n]))
        if not left[name]:
            return None
        study, arm = self._studies[name], self.arms[name]
        slot = min(left[name])
        study.sampler = make_sampler(self.sweep.search, self.sweep.seed, slot)
        self._queue(study, slot, self._grids.get(name))
        trial = study.ask()
        if SLOT in trial.user_attrs:  # one that was queued again
            slot = trial.user_attrs[SLOT]
            _ = trial.relative_params  # here NSGA-II notes the generation, else at the first draw
        else:
            trial.set_user_attr(SLOT, slot)
        drawn = draw(self.sweep, arm, trial)
        trial.set_user_attr(_DRAWN, drawn)
        place = place_of(name, slot)
        return Ticket(
            kind="trial",
            arm=arm,
            drawn=drawn,
            seed=self.sweep.seed + slot,
            label=f"{place} ({' '.join(drawn)})" if drawn else place,
            place=place,
            slot=slot,
            trial=trial,
        )

    def tell(
        self,
        ticket: Ticket,
        metrics: Mapping[str, float] | None,
        reason: str = "",
        *,
        pruned: bool = False,
    ) -> None:
        """End a slot: with the metrics of its run, or without and with the reason."""
        trial, study = ticket.trial, self._studies[ticket.arm.name]
        # A run leaves out a score that its rows do not give, such as an area under one class.
        objectives = ticket.arm.objectives if metrics is not None else ()
        values = [(metrics or {}).get(m, math.nan) for m in objectives]
        excess = self.sweep.search.excess(metrics or {})
        if not all(map(math.isfinite, (*values, *excess.values()))):
            reason = f"an objective is missing or not finite: {values}"
            metrics, excess = None, {}
        if pruned:
            excess = excess_when_pruned(trial)
        for metric, value in excess.items():
            trial.set_constraint(metric, value)
        if metrics is not None:
            study.tell(trial, values)
        else:
            trial.set_user_attr(_REASON, reason)
            study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)

    def verdict(self, ticket: Ticket, folder: Path) -> str:
        """Why a trial is to be stopped, by what its run folder holds now; "" lets it go on."""
        return self._pruner.verdict(ticket.arm, ticket.trial, folder)

    def interrupt(self, ticket: Ticket) -> None:
        """Give back a trial that was stopped on purpose; its slot is asked for again."""
        self._give_back(ticket.trial)

    def ended(self) -> list[Ended]:
        """All slots that have ended, arm by arm."""
        found = []
        for name, study in self._studies.items():
            metrics = self.arms[name].objectives
            for trial in study.get_trials(deepcopy=False):
                if _is_final(trial):
                    attrs = trial.user_attrs
                    found.append(
                        Ended(
                            arm=name,
                            slot=attrs[SLOT],
                            state=_STATES[trial.state],
                            values=dict(zip(metrics, trial.values or (), strict=False)),
                            reason=attrs.get(_REASON, ""),
                            drawn=attrs[_DRAWN],
                            excess=trial.constraints,
                        )
                    )
        return found

    def running(self) -> list[tuple[str, int]]:
        """Arm and slot of the trials that Optuna holds as running."""
        return [
            (name, trial.user_attrs.get(SLOT, -1))
            for name, study in self._studies.items()
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        ]

    def states(self) -> dict[str, JobState]:
        """The state of every slot, by its run folder."""
        slots = range(self.sweep.trials_per_arm)
        states: dict[str, JobState] = {place_of(a, i): "waiting" for a in self.arms for i in slots}
        states |= {place_of(arm, slot): "running" for arm, slot in self.running()}
        return states | {place_of(one.arm, one.slot): one.state for one in self.ended()}

    def _begun(self, name: str) -> set[int]:
        """Slots that have ended or are running."""
        return {
            trial.user_attrs[SLOT]
            for trial in self._studies[name].get_trials(deepcopy=False)
            if trial.state == TrialState.RUNNING or _is_final(trial)
        }

    def _give_back(self, trial: Trial) -> None:
        trial.set_user_attr(_REASON, _INTERRUPTED)
        trial.study.tell(trial, state=TrialState.FAIL)

    def _queue(self, study: optuna.Study, slot: int, grid: Sequence[dict[str, Any]] | None) -> None:
        """Let the next trial have what an interrupted one of this slot had, if all was drawn.

        A trial lost in the middle of its draws draws again from the start: the same numbers.
        On a grid, which an arm may go through several times, the slot says what it has.
        """
        own = [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get(SLOT) == slot]
        # One that waits already was queued by an owner that died before it could ask.
        if any(trial.state == TrialState.WAITING for trial in own):
            return
        drawn = [trial for trial in own if _DRAWN in trial.user_attrs]
        if drawn:
            attrs = drawn[-1].user_attrs
            verdicts = {key: value for key, value in attrs.items() if key.startswith(RUNG)}
            study.enqueue_trial(drawn[-1].params, user_attrs={SLOT: slot, **verdicts})
        elif grid:
            study.enqueue_trial(grid[slot % len(grid)], user_attrs={SLOT: slot})


def _is_final(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and trial.user_attrs.get(_REASON) != _INTERRUPTED
