"""The sections of a sweep file, each with its keys: `hmoe.study.spec` puts them together."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from hmoe.config import literal, parse
from hmoe.errors import nearest
from hmoe.study.controls import CONTROLS

Direction = Literal["minimize", "maximize"]
# What arms can be matched on: `hmoe.study.contract.Spend` says what each is.
Match = Literal["active_params", "total_params", "train_flops", "tokens", "seconds"]


def direction(metric: str) -> Direction:
    """Which way of a metric is better."""
    from hmoe import metrics  # brings torch, which this room starts without

    return metrics.direction(metric)


def turned(metric: str, value: float) -> float:
    """A value of a metric, turned so that lower is better."""
    return value if direction(metric) == "minimize" else -value


def _override(text: str) -> str:
    parse(text)
    return text


def _key(text: str) -> str:
    if not re.fullmatch(r"\w+(\.\w+)*", text):
        raise ValueError("names joined by dots are expected, e.g. experts.hidden_dim")
    return text


def _control(name: str) -> str:
    if name not in CONTROLS:
        raise ValueError(f"must be one of {', '.join(CONTROLS)}.{nearest(name, CONTROLS)}")
    return name


Overrides = list[Annotated[str, AfterValidator(_override)]]


class Section(BaseModel):
    """A part of the file in which every key is known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _know_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, Mapping) else ():
            if key not in (known := cls.model_fields):
                hint = f"{meant(str(key), dotted_keys(cls))} Allowed: {', '.join(known)}."
                raise ValueError(f"'{key}' is not a key of the sweep file here.{hint}")
        return data


def dotted_keys(section: type[Section]) -> list[str]:
    """The keys of a section and of the sections inside it, as the command line writes them."""
    found = []
    for name, field in section.model_fields.items():
        found.append(name)
        inner = {field.annotation, *get_args(field.annotation)} - {None}
        if get_origin(field.annotation) is not dict:  # arms have names between
            sections = [i for i in inner if isinstance(i, type) and issubclass(i, Section)]
            found += [f"{name}.{key}" for one in sections for key in dotted_keys(one)]
    return found


def meant(key: str, known: Sequence[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest key, those inside sections by their last word."""
    written = {one.rpartition(".")[2]: one for one in reversed(known)} | {k: k for k in known}
    close = get_close_matches(key, written, n=1, cutoff=0.5)
    return f" Did you mean '{written[close[0]]}'?" if close else ""


class Arm(Section):
    """One architecture in the comparison; the plan turns `dial` until the arm fits the contract.

    An arm without a dial gets the contract's own where it needs it: see `hmoe.study.contract`.

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


class Contract(Section):
    """Every arm must spend what `reference` spends of `match`, up to a share of `tolerance`."""

    match: Match
    reference: str
    tolerance: float = Field(default=0.02, ge=0, lt=1)


class Budget(Section):
    """Trials of the whole study; every arm gets an equal share."""

    trials: int = Field(ge=1)


class Pruning(Section):
    """Asynchronous successive halving: the rungs, and the share that passes each.

    Attributes:
        first: share of a trial's training FLOPs at which the first rung lies.
        keep: share of the trials at a rung that go on; the next rung lies 1 / keep times higher.
    """

    first: float = Field(gt=0, lt=1)
    keep: float = Field(default=1 / 3, gt=0, lt=1)


class Search(Section):
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
        return {
            metric: turned(metric, metrics[metric]) - turned(metric, worst)
            for metric, worst in self.bounds.items()
            if metric in metrics
        }


class Confirm(Section):
    """How the best of each arm is compared with another's, on fresh seeds.

    Attributes:
        seeds: paired ones, the same for all arms; none was used by the search.
        margins: of objectives, the largest difference that does not matter, in their own unit.
        alpha: error rate of a verdict, over the whole family of pairs.
        arms: those that are confirmed beside the reference; None takes all.
        against: of an arm, the one it is compared with, where that is not the contract's reference:
            {tree_64: flat_64} compares trees of each size with a flat gate of that size.
    """

    seeds: int = Field(default=6, ge=2)
    margins: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    arms: list[str] | None = None
    against: dict[str, str] = {}
