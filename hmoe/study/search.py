"""The search: one Optuna study an arm, in one SQLite file with one writer.

Optuna holds the truth about which trials there are and how they ended. A trial of an arm is a
slot, 0 to trials_per_arm - 1; slot i of every arm trains with the same seed and draws from the same
random numbers, so that arms are paired. A trial that was stopped on the way is told as failed with
the mark "interrupted"; the next trial of its slot gets the same parameters. A slot ends once.
"""

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from hmoe.config import keys, that_are_read
from hmoe.study.contract import PlannedArm
from hmoe.study.job import Job
from hmoe.study.spec import Sweep

optuna.logging.set_verbosity(optuna.logging.WARNING)

_SLOT = "hmoe.slot"
_DRAWN = "hmoe.drawn"
_REASON = "hmoe.reason"
_INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class Ticket(Job):
    """A trial to be run, and what it is to Optuna."""

    slot: int
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


def place_of(arm: str, slot: int) -> str:
    """The run folder of a slot, below that of the study."""
    return f"{arm}/trial_{slot:03d}"


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

    @property
    def total(self) -> int:
        """Number of planned trials."""
        return self.sweep.budget.trials

    @property
    def total_steps(self) -> int:
        """Training steps of all planned trials."""
        steps = sum(arm.cfg.trainer.max_steps for arm in self.arms.values())
        return steps * self.sweep.trials_per_arm

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
        study.sampler = _sampler(self.sweep.seed, slot)
        self._queue_again(study, slot)
        trial = study.ask()
        if _SLOT in trial.user_attrs:  # one that was queued again
            slot = trial.user_attrs[_SLOT]
        else:
            trial.set_user_attr(_SLOT, slot)
        space = self.sweep.searched.only(keys(arm.cfg))
        drawn = that_are_read(arm.cfg, space.suggest(trial, self.sweep.settings(name)))
        trial.set_user_attr(_DRAWN, drawn)
        label = f"{name} trial {slot + 1}"
        return Ticket(
            kind="trial",
            arm=arm,
            drawn=drawn,
            seed=self.sweep.seed + slot,
            name=f"{name}-{slot}",
            label=f"{label} ({' '.join(drawn)})" if drawn else label,
            place=place_of(name, slot),
            slot=slot,
            trial=trial,
        )

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
        """Give back a trial that was stopped on purpose; its slot is asked for again."""
        self._give_back(ticket.trial)

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

    def drawn(self, arm: str, slot: int) -> list[str]:
        """What was drawn for a slot that has ended."""
        (trial,) = (
            trial
            for trial in self._studies[arm].get_trials(deepcopy=False)
            if _is_final(trial) and trial.user_attrs[_SLOT] == slot
        )
        return list(trial.user_attrs[_DRAWN])

    def running(self) -> list[tuple[str, int]]:
        """Arm and slot of the trials that Optuna holds as running."""
        return [
            (name, trial.user_attrs.get(_SLOT, -1))
            for name, study in self._studies.items()
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        ]

    def _begun(self, name: str) -> set[int]:
        """Slots that have ended or are running."""
        return {
            trial.user_attrs[_SLOT]
            for trial in self._studies[name].get_trials(deepcopy=False)
            if trial.state == TrialState.RUNNING or _is_final(trial)
        }

    def _give_back(self, trial: Trial) -> None:
        trial.set_user_attr(_REASON, _INTERRUPTED)
        trial.study.tell(trial, state=TrialState.FAIL)

    def _queue_again(self, study: optuna.Study, slot: int) -> None:
        """Let the next trial have what an interrupted one of this slot had, if all was drawn.

        A trial lost in the middle of its draws draws again from the start: the same numbers.
        """
        own = [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get(_SLOT) == slot]
        drawn = [trial for trial in own if _DRAWN in trial.user_attrs]
        # One that waits already was queued by an owner that died before it could ask.
        if drawn and not any(trial.state == TrialState.WAITING for trial in own):
            study.enqueue_trial(drawn[-1].params, user_attrs={_SLOT: slot})


def _is_final(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and trial.user_attrs.get(_REASON) != _INTERRUPTED


def _sampler(seed: int, slot: int) -> optuna.samplers.BaseSampler:
    """One seed a slot, the same for all arms, and the same however often the sweep was stopped."""
    mixed = int.from_bytes(hashlib.sha256(f"{seed}/{slot}".encode()).digest()[:4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=mixed, multivariate=True, group=True)
