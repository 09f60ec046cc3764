"""Successive halving for one or two objectives, asynchronous, on top of Optuna's storage.

Optuna prunes no study of several objectives. Here rungs lie at shares of a trial's own training
FLOPs: first, first / keep, first / keep^2 ... below 1. The FLOPs of a trial's step are constant, so
a share of FLOPs is a share of steps, and what is judged is the first validation at or after it.
When a trial reaches a rung it is ranked among all trials of its arm that have reached it before,
and is stopped unless it is among the best `keep`. Arms are not ranked against each other: each has
its equal share of the budget, and the best of each is what the study compares.

Source: ASHA in its stopping variant (Li et al. 2020, Algorithm 2 promotes; a trial that goes on at
once needs no checkpoint to be promoted from), ranks for several objectives by non-dominated sorting
as in MO-ASHA (Schmucker et al. 2021). We differ: within a front the order is by crowding distance
(Deb et al. 2002) instead of an epsilon-net; there is no epsilon, so numbers that differ at all are
told apart; trials within the study's bounds come before those beyond (Deb's constrained
domination); rungs are counted in FLOPs. A trial that was let pass is not judged again at that rung.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from hmoe.errors import ConfigError
from hmoe.study.contract import PlannedArm
from hmoe.study.sections import Pruning, turned
from hmoe.study.spec import Sweep

RUNG = "hmoe.rung_"  # attribute of a trial, with the step: how it stood there
SLOT = "hmoe.slot"  # attribute of a trial: which of its arm's it is
_ROUNDING = 1e-9  # floor(0.1 * 30 trials) is 3


@dataclass(frozen=True)
class Mark:
    """What a trial had achieved at a rung.

    Attributes:
        losses: its objectives, turned so that lower is better.
        excess: by how much it was beyond the study's bounds, in sum; 0 within.
    """

    losses: tuple[float, ...]
    excess: float = 0.0

    def dominates(self, other: "Mark") -> bool:
        """Nearer to the bounds, or as near and in no objective worse and in one better."""
        if self.excess != other.excess:
            return self.excess < other.excess
        pairs = list(zip(self.losses, other.losses, strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@dataclass(frozen=True)
class Standing:
    """How a trial stands at a rung.

    Attributes:
        front: number of its front, the best is 1.
        fronts: how many there are.
        place: how many trials are better, plus 1.
        trials: how many have reached the rung, this one included.
        kept: whether it goes on.
    """

    front: int
    fronts: int
    place: int
    trials: int
    kept: bool


def rung_steps(pruning: Pruning, max_steps: int, val_every: int) -> tuple[int, ...]:
    """Steps of the validations at which trials are judged; rungs that meet at one are one.

    Raises:
        ConfigError: there is none before the end.
    """
    steps, share = [], pruning.first
    while share < 1 - _ROUNDING:
        validation = math.ceil(share * max_steps / val_every - _ROUNDING) * val_every
        if validation < max_steps and validation not in steps:
            steps.append(validation)
        share /= pruning.keep
    if not steps:
        raise ConfigError(
            f"search.pruning.first={pruning.first:g}: of {max_steps} steps the first rung lies at "
            f"{math.ceil(pruning.first * max_steps)}, but trainer.val_every={val_every} has no "
            "validation between it and the end; validate more often, or set search.pruning=null"
        )
    return tuple(steps)


def fronts(marks: Sequence[Mark]) -> list[int]:
    """Number of each mark's front: 1 is dominated by none, 2 by those of 1 alone, and so on."""
    front = [0] * len(marks)
    left = set(range(len(marks)))
    number = 0
    while left:
        number += 1
        best = {i for i in left if not any(marks[j].dominates(marks[i]) for j in left)}
        for i in best:
            front[i] = number
        left -= best
    return front


def crowding(marks: Sequence[Mark]) -> list[float]:
    """How alone each mark of one front is: infinite at the ends of an objective.

    Else the distance between its neighbours on both sides, as a share of the front's range, in sum
    over objectives (Deb et al. 2002, section III-B; ours does not depend on the order of equals).
    """
    alone = [0.0] * len(marks)
    for losses in zip(*(mark.losses for mark in marks), strict=True):
        low, high = min(losses), max(losses)
        if low == high:
            continue
        for i, loss in enumerate(losses):
            if loss in (low, high):
                alone[i] = math.inf
            else:
                above = min(other for other in losses if other > loss)
                below = max(other for other in losses if other < loss)
                alone[i] += (above - below) / (high - low)
    return alone


def stand(own: Mark, others: Sequence[Mark], keep: float) -> Standing:
    """How a mark stands beside those that were there before, and whether its trial goes on.

    The order is by front, then by crowding distance, then by the objectives in turn, so that of two
    ends of a front the better in quality comes first. With fewer than 1 / keep trials all go on.
    """
    marks = [own, *others]
    front = fronts(marks)
    order = []
    for number in sorted(set(front)):
        members = [mark for mark, f in zip(marks, front, strict=True) if f == number]
        for mark, alone in zip(members, crowding(members), strict=True):
            order.append(((number, -alone, *mark.losses), mark))
    own_key = next(key for key, mark in order if mark is own)
    place = sum(key < own_key for key, _ in order)
    few = len(marks) < 1 / keep - _ROUNDING
    kept = few or place < math.floor(len(marks) * keep + _ROUNDING)
    return Standing(front[0], max(front), place + 1, len(marks), kept)


class Pruner:
    """Judges running trials by what their event logs say, and keeps every verdict in Optuna.

    Args:
        sweep: the study; without `search.pruning` every trial goes on.
        arms: its arms.

    Raises:
        ConfigError: an arm has no rung before its end, or what rungs are made of is searched.
    """

    def __init__(self, sweep: Sweep, arms: Sequence[PlannedArm]) -> None:
        self.sweep = sweep
        self._rungs: dict[str, tuple[int, ...]] = {}
        self._logs: dict[int, Validations] = {}
        if sweep.search.pruning is None:
            return
        searched = set(sweep.searched.keys())
        for key in ("trainer.max_steps", "trainer.val_every"):
            if key in searched:
                raise ConfigError(
                    f"sweep {sweep.name}: search.pruning: '{key}' is searched, so trials would be "
                    "judged at different steps; fix it, or set search.pruning=null"
                )
        for arm in arms:
            options = arm.cfg.trainer
            try:
                steps = rung_steps(sweep.search.pruning, options.max_steps, options.val_every)
            except ConfigError as error:
                raise ConfigError(f"sweep {sweep.name}, arm '{arm.name}': {error}") from error
            self._rungs[arm.name] = steps

    def verdict(self, arm: PlannedArm, trial: Trial, folder: Path) -> str:
        """Why the trial is to be stopped by what is in its run folder now; "" lets it go on."""
        rungs = self._rungs.get(arm.name, ())
        if not rungs:
            return ""
        log = self._logs.setdefault(trial._trial_id, Validations(folder / "events.jsonl"))
        for step, metrics in log.new():
            if step not in rungs:
                continue
            standing = self._stand(arm, trial, step, metrics)
            if standing is not None and not standing.kept:
                return (
                    f"pruned at rung {rungs.index(step) + 1} (step {step}): front {standing.front} "
                    f"of {standing.fronts}, place {standing.place} of {standing.trials} trials"
                )
        return ""

    def _stand(
        self, arm: PlannedArm, trial: Trial, step: int, metrics: dict[str, float]
    ) -> Standing | None:
        """The trial's standing at a rung, kept with it; None where numbers are not finite.

        A verdict is taken once. It is written in one go with what it rests on, and goes with the
        slot if the trial is interrupted, so that no kill and no later trial changes it.
        """
        pruning, name = self.sweep.search.pruning, f"{RUNG}{step}"
        assert pruning is not None
        if known := trial.user_attrs.get(name):
            return Standing(**known["standing"])
        losses = [turned(metric, metrics.get(metric, math.nan)) for metric in arm.objectives]
        excess = self.sweep.search.excess(metrics)
        beyond = sum(max(0.0, value) for value in excess.values())
        if not all(map(math.isfinite, (*losses, beyond))):
            return None
        # By slot: an interrupted trial and the one that goes on with it are one.
        others = {
            other.user_attrs[SLOT]: other.user_attrs[name]
            for other in trial.study.get_trials(deepcopy=False)
            if name in other.user_attrs
        }
        marks = [Mark(tuple(o["losses"]), o["beyond"]) for o in others.values()]
        standing = stand(Mark(tuple(losses), beyond), marks, pruning.keep)
        kept: dict[str, Any] = {"losses": losses, "beyond": beyond, "excess": excess}
        trial.set_user_attr(name, kept | {"standing": asdict(standing)})
        return standing


def excess_when_pruned(trial: Trial) -> dict[str, float]:
    """By how much each bounded metric was beyond its bound at the last rung of a trial."""
    steps = [int(k.removeprefix(RUNG)) for k in trial.user_attrs if k.startswith(RUNG)]
    return trial.user_attrs[f"{RUNG}{max(steps)}"]["excess"]


class Validations:
    """The validations of a run, each told once, as its event log grows."""

    def __init__(self, events: Path) -> None:
        self._events = events
        self._offset = 0

    def new(self) -> list[tuple[int, dict[str, float]]]:
        """(step, metrics) of those since the last call. A line still being written is left."""
        if not self._events.exists() or self._events.stat().st_size <= self._offset:
            return []
        with self._events.open("rb") as file:
            file.seek(self._offset)
            lines = file.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        self._offset += sum(map(len, whole))
        records = [json.loads(line) for line in whole if b'"val/' in line]
        return [(record["step"], record["metrics"]) for record in records]
