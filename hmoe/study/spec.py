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
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from hmoe.config import RunName, expand, literal, parse
from hmoe.errors import ConfigError, nearest
from hmoe.study.controls import CONTROLS, check_family, with_control
from hmoe.study.space import Space, parse_space, settings_of

Direction = Literal["minimize", "maximize"]
# What arms can be matched on: `hmoe.study.contract.Spend` says what each is.
Match = Literal["active_params", "total_params", "train_flops", "tokens", "seconds"]


def _override(text: str) -> str:
    parse(text)
    return text


def _direction(metric: str) -> Direction:
    from hmoe.metrics import direction  # brings torch, which this room starts without

    return direction(metric)


def _key(text: str) -> str:
    if not re.fullmatch(r"\w+(\.\w+)*", text):
        raise ValueError("names joined by dots are expected, e.g. experts.hidden_dim")
    return text


def _arm_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError("an arm is named with a-z 0-9 _")
    return name


def _control(name: str) -> str:
    if name not in CONTROLS:
        raise ValueError(f"must be one of {', '.join(CONTROLS)}.{nearest(name, CONTROLS)}")
    return name


Overrides = list[Annotated[str, AfterValidator(_override)]]


class _Section(BaseModel):
    """A part of the file in which every key is known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _know_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, Mapping) else ():
            if key not in (known := cls.model_fields):
                hint = f"{nearest(str(key), known)} Allowed: {', '.join(known)}."
                raise ValueError(f"'{key}' is not a key of the sweep file here.{hint}")
        return data


class Arm(_Section):
    """One architecture in the comparison; the plan turns `dial` until the arm fits the contract.

    An arm without one gets the contract's own dial where it needs it: see `hmoe.study.contract`.

    Attributes:
        control: the name of a control; the arm then is that of another: its overrides, then those
            of the control, then its own.
        of: the arm that the control belongs to.
        overrides: beside those common to all arms.
        dial: of a control without one, that of the other arm.
    """

    control: Annotated[str, AfterValidator(_control)] | None = None
    of: str | None = None
    overrides: Overrides = []
    dial: Annotated[str, AfterValidator(_key)] | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> "Arm":
        if (self.control is None) != (self.of is None):
            raise ValueError(
                f"control={literal(self.control)}, of={literal(self.of)}: a control names the arm"
                " it belongs to, as in {control: dense, of: flat}"
            )
        return self


class Contract(_Section):
    """Every arm must spend what `reference` spends of `match`, up to a share of `tolerance`."""

    match: Match
    reference: str
    tolerance: float = Field(default=0.02, ge=0, lt=1)


class Budget(_Section):
    """Trials of the whole study; every arm gets an equal share."""

    trials: int = Field(ge=1)


class Pruning(_Section):
    """Asynchronous successive halving: the rungs, and the share that passes each.

    Attributes:
        first: share of a trial's training FLOPs at which the first rung lies.
        keep: share of the trials at a rung that go on; the next rung lies 1 / keep times higher.
    """

    first: float = Field(gt=0, lt=1)
    keep: float = Field(default=1 / 3, gt=0, lt=1)


class Search(_Section):
    """How settings are drawn, and which trials are stopped early.

    Attributes:
        sampler: who draws.
        bounds: of metrics, the worst value that a best configuration may have.
        pruning: None trains every trial to its end.
    """

    sampler: Literal["tpe", "nsga2", "random", "grid"] = "tpe"
    bounds: dict[str, float] = {}
    pruning: Pruning | None = None

    def excess(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """By how much each bounded metric is beyond its bound; 0 or less is within.

        A metric that an arm does not have, as a dense control has no load, has no bound to meet.
        """
        sign = {"minimize": 1, "maximize": -1}
        return {
            metric: sign[_direction(metric)] * (metrics[metric] - worst)
            for metric, worst in self.bounds.items()
            if metric in metrics
        }


class Confirm(_Section):
    """How the best of each arm is compared with the contract's reference, on fresh seeds.

    Attributes:
        seeds: paired ones, the same for all arms; none was used by the search.
        margins: of objectives, the largest difference that does not matter, in their own unit.
        alpha: error rate of a verdict, over the whole family of pairs.
        arms: those that are confirmed beside the reference; None takes all.
    """

    seeds: int = Field(default=6, ge=2)
    margins: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    arms: list[str] | None = None


class Sweep(_Section):
    """One study: a question and all that is needed to answer it."""

    name: RunName
    question: str = Field(min_length=1)
    objectives: list[str] = Field(min_length=1, max_length=2)
    contract: Contract
    budget: Budget
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=1, ge=1)
    overrides: Overrides = []
    arms: dict[Annotated[str, AfterValidator(_arm_name)], Arm] = Field(min_length=1)
    space: list[str] = []
    when: dict[str, list[str]] = {}
    search: Search = Search()
    confirm: Confirm | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> "Sweep":
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError(f"objectives={literal(self.objectives)}: must differ")
        for metric in self.objectives:
            _direction(metric)
        if self.contract.reference not in self.arms:
            raise ValueError(
                f"contract.reference={self.contract.reference}: is not an arm."
                f"{nearest(self.contract.reference, self.arms)} Arms: {', '.join(self.arms)}."
            )
        self._check_trials()
        self._check_confirm()
        check_family({name: arm.of for name, arm in self.arms.items()})
        for metric in self.search.bounds:
            _direction(metric)
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
                f"arms.{arm}.dial={self.dial(arm)}: the contract sets it, so it cannot be searched"
            )

    @cached_property
    def searched(self) -> Space:
        """`space` and `when`, read."""
        return parse_space(self.space, self.when)

    @property
    def directions(self) -> list[Direction]:
        """Which way is better, for each objective."""
        return [_direction(metric) for metric in self.objectives]

    @property
    def trials_per_arm(self) -> int:
        """The equal share of the budget."""
        return self.budget.trials // len(self.arms)

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
