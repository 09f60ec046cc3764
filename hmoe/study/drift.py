"""What is searched must not change what the contract holds equal.

A dial is turned once for an arm, not for each of its trials. So a searched width, depth or number
of steps may break the contract in every trial without a word. Before any training each arm is
composed at the ends of what is searched: the lowest and highest number, and every choice.

One searched key at a time is moved, with the others at their first end and again at their last;
keys that change the matched quantity are then moved together. That takes a time linear in what is
searched, and at most 256 configurations an arm more. Not seen are two keys of which neither changes
the quantity alone, and a quantity that is highest between the ends of a range.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, product
from typing import Any, cast

from optuna.trial import BaseTrial

from hmoe.config import compose, key_of, parse
from hmoe.errors import ConfigError
from hmoe.study.contract import PlannedArm, spend_of
from hmoe.study.search import draw
from hmoe.study.spec import Sweep

_MOST = 256  # configurations of an arm in which several keys are moved together

Pins = Mapping[str, int]
"""By a parameter's name in Optuna the end at which it is held."""


def drifts(sweep: Sweep, arms: Sequence[PlannedArm]) -> list[str]:
    """Why trials of these arms would not be matched, one line an arm; none if all would be.

    With a contract on seconds the training FLOPs stand for them: what a step takes is known of the
    arm as it was probed alone. What does not compose is passed over: see
    `hmoe.study.vetting`.

    Args:
        sweep: the study.
        arms: its arms, each within the contract as it is planned.
    """
    return [line for arm in arms if (line := _Ends(sweep, arm).told())]


@dataclass(frozen=True)
class _End:
    """One configuration at the ends of a search.

    Attributes:
        value: of the matched quantity; None where they do not compose.
        names: how many ends each parameter has that was suggested on the way.
    """

    value: float | None
    names: Mapping[str, int]


class _Ends:
    """One arm at the ends of what is searched."""

    def __init__(self, sweep: Sweep, arm: PlannedArm) -> None:
        self._sweep, self._arm = sweep, arm
        match = sweep.contract.match
        self._quantity = "train_flops" if match == "seconds" else match
        self._own = float(getattr(arm.spend, self._quantity))
        self._value = cache(self._composed)
        self._beyond: dict[tuple[str, ...], float] = {}  # what was drawn, and its value
        self._sizes: dict[str, int] = {}  # ends of the parameters that change the quantity

    def told(self) -> str:
        """The line of this arm, "" if its trials spend what they should."""
        for others in (0, -1):
            self._move_each(others)
        if not self._beyond:
            self._move_together()
        return self._line() if self._beyond else ""

    def _move_each(self, others: int) -> None:
        """Move one parameter at a time; those that a choice brings in, while it is held."""
        start: dict[str, int] = {}
        held, seen = [start], set[str]()
        for pins in held:
            here = self._at(pins, others)
            for name in here.names.keys() - seen:
                seen.add(name)
                moved = [{**pins, name: end} for end in range(here.names[name])]
                held += moved
                ends = [self._at(there, others) for there in moved]
                if len({end.value for end in ends} - {None}) > 1:
                    # Under a condition it moves only while the condition holds.
                    self._sizes |= {n: here.names[n] for n in (*pins, name)}

    def _move_together(self) -> None:
        names = list(self._sizes)
        all_ends = product(*(range(self._sizes[name]) for name in names))
        for ends in islice(all_ends, _MOST):
            self._at(dict(zip(names, ends, strict=True)), 0)

    def _at(self, pins: Pins, others: int) -> _End:
        """The configuration where some parameters are held; noted if it is beyond the tolerance."""
        trial = Held(pins, others)
        drawn = tuple(draw(self._sweep, self._arm, cast(BaseTrial, trial)))
        # Whatever optimises, the model and its data spend the same: nearly every search has a rate.
        value = self._value(tuple(d for d in drawn if not d.startswith("optim.")))
        moves = value is not None and value != self._own
        if moves and abs(self._off(value)) > self._sweep.contract.tolerance:
            self._beyond[drawn] = value
        return _End(value, trial.names)

    def _composed(self, drawn: tuple[str, ...]) -> float | None:
        try:
            spend = spend_of(compose([*self._arm.overrides, *drawn]))
        except ConfigError:
            return None
        return float(getattr(spend, self._quantity))

    def _off(self, value: float) -> float:
        """Share by which it misses the contract's reference."""
        return (1 + self._arm.deviation) * value / self._own - 1

    def _line(self) -> str:
        match, where = self._sweep.contract.match, f"sweep {self._sweep.name}"
        keys = {name.partition("@")[0] for name in self._sizes}
        worst = sorted(self._beyond, key=self._beyond.__getitem__)
        told = [
            f"{' '.join(d for d in drawn if not keys or key_of(parse(d)) in keys)} has "
            f"{self._beyond[drawn]:,.0f} ({self._off(self._beyond[drawn]):+.1%})"
            for drawn in dict.fromkeys((worst[0], worst[-1]))
        ]
        stands = ", for which train_flops stands here," if match == "seconds" else ""
        return (
            f"{where}: what is searched breaks contract.match = {match}{stands} in arm "
            f"'{self._arm.name}', which has {self._own:,.0f}: {'; '.join(told)}, beyond "
            f"contract.tolerance = {self._sweep.contract.tolerance:g}. A dial is not turned again "
            "for a trial: fix what changes it, make arms of its values, or match another quantity."
        )


class Held:
    """Stands in for a trial: suggests the ends at which parameters are held.

    Args:
        pins: by name the end.
        others: the end of all others, 0 or -1.
    """

    def __init__(self, pins: Pins, others: int) -> None:
        self._pins, self._others = pins, others
        self.names: dict[str, int] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(name, choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return self._take(name, (low, high))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        return self._take(name, (low, high))

    def _take(self, name: str, values: Sequence[Any]) -> Any:
        self.names[name] = len(values)
        return values[self._pins.get(name, self._others)]
