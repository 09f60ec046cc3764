"""The sweep file: one question, its arms, what is searched, and what makes the arms comparable.

# Does a tree of gates beat a flat gate at equal active parameters?
question: Does a tree of gates beat a flat gate at equal active parameters?
objectives: [val/bits_per_byte, val/load/cv/expert]
contract: {match: active_params, reference: flat, tolerance: 0.02}
budget: {trials: 15}
search: {sampler: tpe, bounds: {val/load/cv/expert: 0.5}}
confirm: {seeds: 6, margins: {val/bits_per_byte: 0.02}}
seed: 0
workers: 2
overrides: [data=stdlib, model=transformer]
arms:
  flat: {overrides: [tree=flat, "tree.spec=[16]"], dial: experts.hidden_dim}
  grid: {overrides: [tree=grid, "tree.spec=[4,4]"], dial: experts.hidden_dim}
  dense: {control: dense, of: flat}
space:
  - optim.lr=tag(log, interval(1e-3, 1e-2))
when:
  selection=descend: ["selection.k=choice(1, 2)"]
"""

import os
import re
from functools import cached_property
from typing import Annotated

from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from hmoe.config import RunName, expand, literal
from hmoe.errors import ConfigError, nearest
from hmoe.study.controls import check_family, with_control
from hmoe.study.sections import (
    Arm,
    Budget,
    Confirm,
    Contract,
    Direction,
    Overrides,
    Search,
    Section,
    direction,
)
from hmoe.study.space import Space, parse_space, settings_of


def _arm_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError("an arm is named with a-z 0-9 _")
    return name


class Sweep(Section):
    """One study: a question and all that is needed to answer it."""

    name: RunName
    question: str = Field(min_length=1)
    objectives: list[str] = Field(min_length=1, max_length=2)
    contract: Contract
    budget: Budget
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=1, ge=1)
    overrides: Overrides = Field(default=[])
    arms: dict[Annotated[str, AfterValidator(_arm_name)], Arm] = Field(min_length=1)
    space: list[str] = Field(default=[])
    when: dict[str, list[str]] = Field(default={})
    search: Search = Search()
    confirm: Confirm | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> "Sweep":
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError(f"objectives={literal(self.objectives)}: must differ")
        for metric in self.objectives:
            direction(metric)
        if self.contract.reference not in self.arms:
            raise ValueError(
                f"contract.reference={self.contract.reference}: is not an arm."
                f"{nearest(self.contract.reference, self.arms)} Arms: {', '.join(self.arms)}."
            )
        self._check_trials()
        self._check_confirm()
        check_family({name: arm.of for name, arm in self.arms.items()})
        for metric in self.search.bounds:
            direction(metric)
        for arm in self.arms:
            self._check_arm(arm)
        return self

    def _check_trials(self) -> None:
        arms, trials = len(self.arms), self.budget.trials
        if trials % arms:
            below = max(trials - trials % arms, arms)
            raise ValueError(
                f"budget.trials={trials}: must be a multiple of the number of arms ({arms}),"
                f" e.g. {below} or {below + arms}"
            )

    def _check_confirm(self) -> None:
        if self.confirm is None:
            return
        for metric in self.confirm.margins:
            if metric not in self.objectives:
                raise ValueError(
                    f"confirm.margins: {metric} is not an objective."
                    f"{nearest(metric, self.objectives)} Objectives: {', '.join(self.objectives)}."
                )
        for arm in self.confirm.arms or ():
            if arm not in self.arms:
                raise ValueError(
                    f"confirm.arms: {arm} is not an arm.{nearest(arm, self.arms)}"
                    f" Arms: {', '.join(self.arms)}."
                )
        for arm, other in self.confirm.against.items():
            for name in (arm, other):
                if name not in self.confirmed:
                    raise ValueError(
                        f"confirm.against: {name} is not an arm that is confirmed."
                        f"{nearest(name, self.confirmed)} Confirmed: {', '.join(self.confirmed)}."
                    )
            if arm in (other, self.contract.reference):
                raise ValueError(
                    f"confirm.against: {arm}={other}: compares an arm with itself"
                    if arm == other
                    else f"confirm.against: {arm}={other}: {arm} is the contract's reference, with "
                    "which the others are compared"
                )

    def _check_arm(self, arm: str) -> None:
        settings = self.settings(arm)
        searched = self.searched.reachable(settings).keys()
        # What a system says is a start that a search may leave, as any later override may.
        fixed = settings_of(self.arm_overrides(arm))
        for key in searched:
            if key in fixed:
                raise ValueError(
                    f"arms.{arm}: {key}={fixed[key]} is fixed by an override, and '{key}' is"
                    " searched; keep one of the two"
                )
        if self.dial(arm) in searched:
            raise ValueError(
                f"arms.{arm}.dial={self.dial(arm)}: the contract sets it, so it cannot be searched."
                " A dial is a whole number that makes the arm bigger, such as experts.hidden_dim"
            )

    @cached_property
    def searched(self) -> Space:
        """`space` and `when`, read."""
        return parse_space(self.space, self.when)

    @property
    def directions(self) -> list[Direction]:
        """Which way is better, for each objective."""
        return [direction(metric) for metric in self.objectives]

    @property
    def trials_per_arm(self) -> int:
        """The equal share of the budget."""
        return self.budget.trials // len(self.arms)

    @property
    def confirmed(self) -> list[str]:
        """The arms that the confirmation compares, the reference among them; none without one."""
        if self.confirm is None:
            return []
        named = self.arms if self.confirm.arms is None else self.confirm.arms
        return [arm for arm in self.arms if arm in named or arm == self.contract.reference]

    @property
    def threads(self) -> int:
        """Of a worker: two processes with two threads each would fight over two cores."""
        return max(1, (os.cpu_count() or 1) // self.workers)

    def arm_overrides(self, arm: str) -> list[str]:
        """The overrides of an arm, those common to all arms first.

        Raises:
            ConfigError: it is a control that does not apply to the arm it belongs to.
        """
        section = self.arms[arm]
        if section.control is None or section.of is None:
            return [*self.overrides, *section.overrides]
        try:
            above = with_control(section.control, tuple(self.arm_overrides(section.of)))
        except ConfigError as error:
            raise ConfigError(f"arms.{arm}: {error}") from error
        return [*above, *section.overrides]

    def dial(self, arm: str) -> str | None:
        """What the contract turns in an arm."""
        section = self.arms[arm]
        return self.dial(section.of) if section.of and not section.dial else section.dial

    def settings(self, arm: str) -> dict[str, str]:
        """The choices of an arm, key to value as text, as `Space.suggest` wants them."""
        return settings_of(expand(self.arm_overrides(arm)))
