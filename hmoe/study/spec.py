"""The sweep file: one question, its arms, what is searched, and what makes the arms comparable.

# Does a tree of gates beat a flat gate at equal active parameters?
question: Does a tree of gates beat a flat gate at equal active parameters?
objectives: [val/bits_per_byte, val/load/cv/expert]
contract: {match: active_params, reference: flat, tolerance: 0.02}
budget: {trials: 15}
seed: 0
workers: 2
overrides: [data=stdlib, model=transformer]
arms:
  flat: {overrides: [tree=flat, "tree.spec=[16]"], dial: experts.hidden_dim}
  grid: {overrides: [tree=grid, "tree.spec=[4,4]"], dial: experts.hidden_dim}
space:
  - optim.lr=tag(log, interval(1e-3, 1e-2))
when:
  selection=descend: ["selection.k=choice(1, 2)"]
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from yaml import YAMLError  # type: ignore[import-untyped]

from hmoe.config import RunName, expand, explain, literal, parse
from hmoe.errors import ConfigError, nearest
from hmoe.study.space import Space, parse_space, settings_of

_PACKAGE = Path(__file__).parents[1]
SWEEPS = _PACKAGE / "sweeps" if (_PACKAGE / "sweeps").is_dir() else _PACKAGE.parent / "sweeps"
_NOT_STUDY = {"runs", "tracking"}  # where runs are kept and shown does not change the answer

Direction = Literal["minimize", "maximize"]


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
    """One architecture in the comparison; the plan turns `dial` until the arm fits the contract."""

    overrides: Overrides = []
    dial: Annotated[str, AfterValidator(_key)] | None = None


class Contract(_Section):
    """Every arm must cost what `reference` costs in `match`, up to a share of `tolerance`."""

    match: Literal["active_params", "params", "flops_per_token"]
    reference: str
    tolerance: float = Field(default=0.02, ge=0, lt=1)


class Budget(_Section):
    """Trials of the whole study; every arm gets an equal share."""

    trials: int = Field(ge=1)


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

    def _check_arm(self, arm: str) -> None:
        settings = self.settings(arm)
        searched = self.search.reachable(settings).keys()
        # What a system says is a start that a search may leave, as any later override may.
        fixed = settings_of(self.arm_overrides(arm))
        for key in searched:
            if key in fixed:
                raise ValueError(
                    f"arms.{arm}: {key}={fixed[key]} is fixed by an override, and '{key}' is"
                    " searched; keep one of the two"
                )
        if self.arms[arm].dial in searched:
            raise ValueError(
                f"arms.{arm}.dial={self.arms[arm].dial}: the contract sets it, so it cannot be"
                " searched"
            )

    @cached_property
    def search(self) -> Space:
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

    def arm_overrides(self, arm: str) -> list[str]:
        """The overrides of an arm, those common to all arms first."""
        return [*self.overrides, *self.arms[arm].overrides]

    def settings(self, arm: str) -> dict[str, str]:
        """The choices of an arm, key to value as text, as `Space.suggest` wants them."""
        return settings_of(expand(self.arm_overrides(arm)))


def load_sweep(name: str, overrides: Sequence[str] = (), *, folder: Path = SWEEPS) -> Sweep:
    """Read `folder/name.yaml` and change it by the overrides of the command line.

    Keys of the sweep file (`workers=2`, `budget.trials=5`) change the sweep; all others
    (`data=digits`) are added to the overrides common to all arms.
    """
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in names:
        raise ConfigError(
            f"sweep={name}: no such file in {folder}.{nearest(name, names)} "
            f"Sweeps: {', '.join(names)}."
        )
    content = {"name": name, **_read(folder / f"{name}.yaml")}
    _check_branches(_sweep(name, content))
    for override in overrides:
        parsed = parse(override)
        *parents, last = parsed.key_or_group.split(".")
        if (parents or [last])[0] not in Sweep.model_fields:
            content["overrides"] = [*content.get("overrides", []), override]
            continue
        node = content
        for part in parents:
            inner = [key for key, value in node.items() if isinstance(value, dict)]
            if part not in inner:
                raise ConfigError(
                    f"{override}: the sweep has no keys under '{part}'.{nearest(part, inner)}"
                )
            node[part] = node = dict(node[part])
        node[last] = parsed.value()
    return _sweep(name, content)


def _read(file: Path) -> dict[str, Any]:
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(file))
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: a mapping is expected")
    question = f"# {content.get('question')}"
    first_line = file.read_text(encoding="utf-8").partition("\n")[0]
    if "question" in content and first_line != question:
        raise ConfigError(f"{file}: the first line must be the question: {question}")
    return content


def _sweep(name: str, content: Mapping[str, Any]) -> Sweep:
    try:
        return Sweep.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(f"sweep {name}: {line}" for line in explain(error))) from error


def _check_branches(sweep: Sweep) -> None:
    """Refuse a branch that no arm can enter: it would be ignored without a word."""
    arms = [sweep.search.reachable(sweep.settings(arm)) for arm in sweep.arms]
    entered = [branch for arm in arms for branch in arm.branches]
    for branch in sweep.search.branches:
        if branch not in entered:
            raise ConfigError(
                f"sweep {sweep.name}: when.{branch.key}={branch.value}: holds in no arm; the value"
                " must be among the overrides of an arm or the choices of `space`"
            )


# ---------------------------------------------------------------- identity of a study


def fingerprint(sweep: Sweep) -> dict[str, Any]:
    """What defines a study, as plain data for JSON: two sweeps with equal ones may share trials.

    Question, name, budget and workers may change from one call to the next.
    """
    kept = {"objectives", "contract", "overrides", "arms", "space", "when", "seed"}
    content = sweep.model_dump(include=kept)
    content["overrides"] = [
        override
        for override in sweep.overrides
        if parse(override).key_or_group.partition(".")[0] not in _NOT_STUDY
    ]
    return content


def diff_fingerprints(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The differences of two fingerprints, one a line; none when they are equal."""
    before, after = dict(_leaves("", old)), dict(_leaves("", new))
    lines = []
    for key in dict.fromkeys([*before, *after]):
        one, other = before.get(key), after.get(key)
        if one == other:
            continue
        if not (isinstance(one, list) and isinstance(other, list)):
            lines.append(f"{key}: {_word(key, before)} -> {_word(key, after)}")
        elif sorted(one) == sorted(other):
            lines.append(f"{key}: in another order")
        else:
            lines += [f"{key}: - {item}" for item in one if item not in other]
            lines += [f"{key}: + {item}" for item in other if item not in one]
    return lines


def _leaves(path: str, node: Any) -> list[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        return [(path, node)]
    return [
        leaf
        for key, value in node.items()
        for leaf in _leaves(f"{path}.{key}" if path else str(key), value)
    ]


def _word(key: str, leaves: Mapping[str, Any]) -> str:
    return literal(leaves[key]) if key in leaves else "(absent)"
