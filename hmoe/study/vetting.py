"""What is searched, vetted before any work: it is there, it makes no arm another, and it composes.

Three mistakes that a sweep would otherwise train through: a searched key that no arm has draws
nothing, a key that makes an arm what it is turns all arms into one, and a value of the wrong kind
fails in each trial that draws it.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from random import Random
from typing import cast

from omegaconf import OmegaConf
from optuna.trial import BaseTrial

from hmoe.config import compose, key_of, keys, parse, that_are_read
from hmoe.errors import ConfigError, nearest
from hmoe.study.contract import PlannedArm
from hmoe.study.drift import Held, Pins
from hmoe.study.search import draw
from hmoe.study.space import overlap
from hmoe.study.spec import Sweep
from hmoe.training import assemble

_MOST = 64  # combinations in which a value is tried that composes beside no first and no last value

End = tuple[str, int]
"""A parameter's name in Optuna, and which of its ends: 0 is the lowest number or first choice."""


def vet(sweep: Sweep, arms: Sequence[PlannedArm]) -> None:
    """Refuse a search that cannot mean what it says.

    Args:
        sweep: the study.
        arms: its arms, as they compose.

    Raises:
        ConfigError: names key, arm and value, one line each.
    """
    wrong = [*_unknown(sweep, arms), *(line for arm in arms for line in _taken(sweep, arm, arms))]
    wrong = wrong or _Values(sweep).wrong(arms)
    if wrong:
        raise ConfigError("\n".join(f"sweep {sweep.name}: {line}" for line in wrong))


def _unknown(sweep: Sweep, arms: Sequence[PlannedArm]) -> Iterator[str]:
    """Keys of `space` that no arm has. Those of `when` are there only while it holds."""
    known = dict.fromkeys(key for arm in arms for key in keys(arm.cfg))
    for parameter in sweep.searched.parameters:
        if parameter.key not in known:
            # `lr` is meant as `optim.lr`, though the two spellings are far apart.
            ends = [key for key in known if key.endswith(f".{parameter.key}")]
            hint = f" Did you mean '{ends[0]}'?" if ends else nearest(parameter.key, known)
            yield f"space: {parameter.key}: no arm has such a key.{hint}"


def _taken(sweep: Sweep, arm: PlannedArm, arms: Sequence[PlannedArm]) -> Iterator[str]:
    """Searched keys that lie in, or around, what the arm's own overrides or its dial set.

    What all arms share may be searched, and so may an option of a group that the arm chooses: not
    one in which the choices of the arms differ, unless `when` asks for it under that choice.
    """
    space = sweep.searched.reachable(sweep.settings(arm.name))
    searched = [(parameter.key, "") for parameter in space.parameters]
    searched += [(p.key, branch.key) for branch in space.branches for p in branch.parameters]
    searched = [(key, under) for key, under in searched if _reads(arm, key)]
    dial = sweep.dial(arm.name)
    for key, _ in searched:
        if dial and overlap(key, dial):
            yield f"arms.{arm.name}.dial={dial}: the contract sets it, and '{key}' is searched"
    for override in arm.overrides:
        said = parse(override)
        if override in sweep.overrides or said.key_or_group == "system":
            continue  # what a system says is a start that a search may leave
        place = said.package or said.key_or_group
        for key, under in searched:
            option = "." not in said.key_or_group and key.startswith(f"{place}.")
            harmless = option and (under == key_of(said) or not _differs(key, arm, arms))
            if overlap(key, place) and not harmless:
                yield (
                    f"arms.{arm.name}: {override} makes this arm what it is, and '{key}' is "
                    "searched, which would overwrite it; keep one of the two"
                    + (f", or search it under `when: {key_of(said)}=...`" if option else "")
                )


def _reads(arm: PlannedArm, key: str) -> bool:
    return bool(that_are_read(arm.cfg, [f"{key}=null"]))


def _differs(key: str, arm: PlannedArm, arms: Sequence[PlannedArm]) -> bool:
    """Whether another arm has another value of a key."""
    own = OmegaConf.select(arm.cfg, key)
    having = [one for one in arms if key in keys(one.cfg) and _reads(one, key)]
    return any(OmegaConf.select(one.cfg, key) != own for one in having)


class _Values:
    """The values that a search can draw, at the ends of numbers and in every choice."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._fine: set[End] = set()
        self._refused: dict[End, str] = {}
        self._refusal = cache(_refusal)

    def wrong(self, arms: Sequence[PlannedArm]) -> list[str]:
        """Why values compose in no arm that reads them, one line each; none if all compose."""
        for arm in arms:
            self._try_each(arm)
        return list(
            dict.fromkeys(line for end, line in self._refused.items() if end not in self._fine)
        )

    def _try_each(self, arm: PlannedArm) -> None:
        """Hold one parameter at a time; those that a choice brings in, while it is held."""
        held: list[dict[str, int]] = [{}]
        sizes: dict[str, int] = {}
        for pins in held:
            first = self._draw(arm, pins, 0)[1]
            for name in first.keys() - sizes.keys():
                held += [{**pins, name: end} for end in range(first[name])]
            sizes |= first
            for others in (0, -1):
                self._compose(arm, pins, others)
        chance = Random(0)
        for pins in held:
            for _ in range(_MOST):
                if not set(pins.items()) & (self._refused.keys() - self._fine):
                    break
                self._compose(arm, {n: chance.randrange(sizes[n]) for n in sizes} | pins, 0)

    def _draw(self, arm: PlannedArm, pins: Pins, others: int) -> tuple[list[str], dict[str, int]]:
        """What is drawn, and the number of ends of every parameter that the arm reads of it."""
        trial = Held(pins, others)
        drawn = draw(self._sweep, arm, cast(BaseTrial, trial))
        read = {parse(override).key_or_group for override in drawn}
        return drawn, {n: size for n, size in trial.names.items() if n.partition("@")[0] in read}

    def _compose(self, arm: PlannedArm, pins: Pins, others: int) -> None:
        """Compose one draw, unless all in it is known to be fine; note how it went."""
        drawn, sizes = self._draw(arm, pins, others)
        ends = {(name, pins.get(name, others % sizes[name])) for name in sizes}
        if ends <= self._fine:
            return
        if refusal := self._refusal((*arm.overrides, *drawn)):
            line = f"arm '{arm.name}' with {' '.join(drawn)}: {refusal}"
            for end in pins.items():
                if end[0] in sizes:
                    self._refused.setdefault(end, line)
        else:
            self._fine |= ends


def _refusal(overrides: Sequence[str]) -> str:
    """What a run with these overrides would say before any work; "" if it would begin."""
    try:
        assemble(compose(overrides), device="meta")
    except ConfigError as error:
        return str(error)
    return ""
