"""The search: one Optuna study an arm, in one SQLite file with one writer.

Optuna holds the truth about which trials there are and how they ended. A trial of an arm is a
slot, 0 to trials_per_arm - 1; slot i of every arm trains with the same seed and draws from the same
random numbers, so that arms are paired. A trial whose process was lost is told as failed with the
mark "interrupted" and its parameters are queued again for the same slot; a slot ends once.
"""

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from hmoe.config import keys
from hmoe.study.contract import PlannedArm
from hmoe.study.spec import Sweep

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

_SLOT = "hmoe.slot"
_REASON = "hmoe.reason"
_INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Ticket:
    """A trial to be run: the arm, its slot, and what was drawn for it."""

    arm: PlannedArm
    slot: int
    drawn: Sequence[str]
    trial: Trial


@dataclass(frozen=True)
class Ended:
    """How a slot ended: its values by metric (none unless complete), and the reason if not."""

    arm: str
    slot: int
    values: Mapping[str, float]
    reason: str


def storage_url(runs: Path) -> str:
    """Where Optuna's tables are."""
    return f"sqlite:///{runs.resolve() / 'optuna.db'}"


class Search:
    """Ask and tell for all arms of a sweep. Make one in the process that owns the study."""

    def __init__(self, sweep: Sweep, arms: Sequence[PlannedArm], runs: Path) -> None:
        self.sweep = sweep
        self.arms = {arm.name: arm for arm in arms}
        storage = optuna.storages.RDBStorage(storage_url(runs))
        self._studies = {
            arm.name: optuna.create_study(
                study_name=f"{sweep.name}/{arm.name}",
                storage=storage,
                directions=[
                    way
                    for metric, way in zip(sweep.objectives, sweep.directions, strict=True)
                    if metric in arm.objectives
                ],
                load_if_exists=True,
            )
            for arm in arms
        }

    def recover(self) -> int:
        """Requeue the trials that a dead owner left running. Returns how many there were."""
        lost = 0
        for name, study in self._studies.items():
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self._requeue(name, Trial(study, trial._trial_id), trial)
                lost += 1
        return lost

    def ask(self) -> Ticket | None:
        """The next trial of the arm that has begun the fewest; None when all have begun."""
        begun = {name: self._begun(name) for name in self.arms}
        name = min(begun, key=lambda n: len(begun[n]))
        if len(begun[name]) >= self.sweep.trials_per_arm:
            return None
        study, arm = self._studies[name], self.arms[name]
        slot = min(set(range(self.sweep.trials_per_arm)) - begun[name])
        study.sampler = optuna.samplers.TPESampler(
            seed=_sampler_seed(self.sweep.seed, slot), multivariate=True, group=True
        )
        trial = study.ask()
        if _SLOT in trial.user_attrs:  # one that was queued again
            slot = trial.user_attrs[_SLOT]
        else:
            trial.set_user_attr(_SLOT, slot)
        space = self.sweep.search.only(keys(arm.cfg))
        return Ticket(arm, slot, space.suggest(trial, self.sweep.settings(name)), trial)

    def tell(self, ticket: Ticket, values: Sequence[float] | None, reason: str = "") -> None:
        """End a slot: with its objective values, or without and with the reason."""
        if values is not None and not all(math.isfinite(value) for value in values):
            values, reason = None, f"an objective is not finite: {list(values)}"
        study = self._studies[ticket.arm.name]
        if values is None:
            ticket.trial.set_user_attr(_REASON, reason)
            study.tell(ticket.trial, state=TrialState.FAIL)
        else:
            study.tell(ticket.trial, list(values))

    def interrupt(self, ticket: Ticket) -> None:
        """Put a trial that was stopped on purpose back into the queue."""
        study = self._studies[ticket.arm.name]
        frozen = next(t for t in study.trials if t.number == ticket.trial.number)
        self._requeue(ticket.arm.name, ticket.trial, frozen)

    def ended(self) -> list[Ended]:
        """All slots that have ended, arm by arm."""
        found = []
        for name, study in self._studies.items():
            metrics = self.arms[name].objectives
            for trial in study.get_trials(deepcopy=False):
                if _is_final(trial):
                    values = dict(zip(metrics, trial.values or (), strict=False))
                    reason = trial.user_attrs.get(_REASON, "")
                    found.append(Ended(name, trial.user_attrs[_SLOT], values, reason))
        return found

    def running(self) -> list[tuple[str, int]]:
        """Arm and slot of the trials that Optuna holds as running."""
        return [
            (name, trial.user_attrs.get(_SLOT, -1))
            for name, study in self._studies.items()
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        ]

    def _begun(self, name: str) -> set[int]:
        """Slots that have ended or are running; those in the queue are yet to begin."""
        return {
            trial.user_attrs[_SLOT]
            for trial in self._studies[name].get_trials(deepcopy=False)
            if trial.state == TrialState.RUNNING or _is_final(trial)
        }

    def _requeue(self, name: str, trial: Trial, frozen: FrozenTrial) -> None:
        study = self._studies[name]
        slot = frozen.user_attrs.get(_SLOT)
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        # Queue first: a crash in between leaves a running trial, which is requeued once only.
        if slot is not None and slot not in {t.user_attrs.get(_SLOT) for t in waiting}:
            study.enqueue_trial(frozen.params, user_attrs={_SLOT: slot})
        trial.set_user_attr(_REASON, _INTERRUPTED)
        study.tell(trial, state=TrialState.FAIL)


def _is_final(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and trial.user_attrs.get(_REASON) != _INTERRUPTED


def _sampler_seed(seed: int, slot: int) -> int:
    """One seed a slot, the same for all arms, and the same however often the sweep was stopped."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{slot}".encode()).digest()[:4])
