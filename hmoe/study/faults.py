"""Why the arms of a study cannot be compared: they miss the contract, or two of them are one."""

from collections.abc import Sequence
from itertools import combinations
from math import ceil

from hmoe.config import digest
from hmoe.errors import ConfigError
from hmoe.study.contract import WIDTH, PlannedArm, Seconds, compose_arms, match_arms, matched
from hmoe.study.spec import Sweep


def plan_arms(sweep: Sweep, seconds: Seconds | None = None) -> list[PlannedArm]:
    """Compose every arm and match it to the contract's reference.

    Args:
        sweep: the study.
        seconds: what a probe foretells; only a contract on seconds asks.

    Raises:
        ConfigError: an arm does not compose, cannot be matched within the tolerance, or is the same
            as another.
    """
    arms = match_arms(sweep, compose_arms(sweep), seconds)
    if wrong := faults(sweep, arms):
        raise ConfigError("\n".join(wrong))
    return arms


def faults(sweep: Sweep, arms: Sequence[PlannedArm]) -> list[str]:
    """Why these arms cannot be compared: those that miss the contract, and those that are one."""
    contract, where = sweep.contract, f"sweep {sweep.name}:"
    found = []
    if missed := [arm for arm in arms if abs(arm.deviation) > contract.tolerance]:
        (reference,) = (arm for arm in arms if arm.name == contract.reference)
        least = ceil(1e4 * max(abs(arm.deviation) for arm in missed)) / 1e4
        advice = [] if all(arm.dial for arm in missed) else [f"give the arm a dial such as {WIDTH}"]
        advice += ["change its sizes", f"or widen the tolerance to {least:g} at least"]
        found.append(
            f"{where} contract.match = {contract.match} of '{reference.name}' is "
            f"{matched(reference.spend, contract.match):,.0f}, but "
            f"{'; '.join(_miss(sweep, arm) for arm in missed)}, beyond contract.tolerance = "
            f"{contract.tolerance:g}. {', '.join(advice).capitalize()}."
        )
    found += [
        f"{where} arms '{one.name}' and '{other.name}' are one: with the same configuration, seeds "
        "and data they would give the same numbers twice. Change one of them, or leave it out."
        for one, other in combinations(arms, 2)
        if _is_same(sweep, one, other)
    ]
    return found


def _miss(sweep: Sweep, arm: PlannedArm) -> str:
    """How far an arm is from the contract, and where its dial could be."""
    value = matched(arm.spend, sweep.contract.match)
    told = f"arm '{arm.name}' has {value:,.0f} ({arm.deviation:+.1%}) "
    if not arm.dial:
        return told + "and no dial to turn"
    ends = " and ".join(f"{off:+.2%} at {place}" for place, off in dict(arm.neighbours).items())
    return f"{told}at the nearest: its dial moves in steps, {ends}"


def _is_same(sweep: Sweep, one: PlannedArm, other: PlannedArm) -> bool:
    """Whether all trials of two arms would be the same, two by two."""
    if digest(one.cfg) != digest(other.cfg):
        return False
    how = {"overrides", "dial"}  # the configuration they come to is the same
    asked, asked_other = (sweep.arms[arm.name].model_dump(exclude=how) for arm in (one, other))
    drawn, drawn_other = (
        sweep.searched.reachable(sweep.settings(arm.name)) for arm in (one, other)
    )
    return asked == asked_other and drawn == drawn_other
