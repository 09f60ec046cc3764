"""The budget contract: turn one dial of every arm until all arms cost the same.

Costs are worked out on models without memory, so a plan takes a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from omegaconf import DictConfig, OmegaConf

from hmoe.config import compose, keys
from hmoe.errors import ConfigError, nearest
from hmoe.models import Cost, cost
from hmoe.study.spec import Sweep
from hmoe.training import assemble, validation_metrics

# Widths move in steps that every grouped product can take.
_STEP = 8


@dataclass(frozen=True)
class PlannedArm:
    """An arm as it will run.

    Attributes:
        name: of the arm.
        overrides: its overrides, with the dial where the contract put it.
        cfg: the configuration they compose to.
        tree: its organisation, "" for a dense control.
        cost: what it costs.
        deviation: share by which it misses the reference in the matched cost; signed.
        objectives: those metrics of the study that the arm has: a dense control has no load, nor
            have slots.
    """

    name: str
    overrides: Sequence[str]
    cfg: DictConfig
    tree: str
    cost: Cost
    deviation: float
    objectives: tuple[str, ...]


def plan_arms(sweep: Sweep) -> list[PlannedArm]:
    """Compose every arm and match it to the contract's reference.

    Raises:
        ConfigError: an arm does not compose, or cannot be matched within the tolerance.
    """
    first = {name: _plan_arm(sweep, name, sweep.arm_overrides(name)) for name in sweep.arms}
    target = getattr(first[sweep.contract.reference].cost, sweep.contract.match)
    planned, failures = [], []
    for name, arm in first.items():
        if name != sweep.contract.reference and sweep.dial(name) is not None:
            arm = _turn(sweep, arm, target)
        arm = replace(arm, deviation=getattr(arm.cost, sweep.contract.match) / target - 1)
        planned.append(arm)
        if abs(arm.deviation) > sweep.contract.tolerance:
            failures.append(
                f"arm '{name}' has {getattr(arm.cost, sweep.contract.match):,.0f} "
                f"({arm.deviation:+.1%})"
            )
    if failures:
        raise ConfigError(
            f"sweep {sweep.name}: contract.match = {sweep.contract.match} of '"
            f"{sweep.contract.reference}' is {target:,.0f}, but {'; '.join(failures)}, beyond "
            f"contract.tolerance = {sweep.contract.tolerance:g}. Give the arm a dial such as "
            "experts.hidden_dim, change its sizes, or widen the tolerance."
        )
    return planned


def _plan_arm(sweep: Sweep, name: str, overrides: Sequence[str]) -> PlannedArm:
    try:
        cfg = compose([*overrides, f"seed={sweep.seed}", "test=false"])
        parts = assemble(cfg, device="meta")
    except ConfigError as error:
        raise ConfigError(f"sweep {sweep.name}, arm '{name}': {error}") from error
    arm_cost = cost(parts.model)
    told = validation_metrics(parts)
    has_load = any(m.startswith("val/load/") for m in told)
    objectives = tuple(m for m in sweep.objectives if has_load or not m.startswith("val/load/"))
    if unknown := sorted(set(objectives or sweep.objectives) - told):
        raise ConfigError(
            f"sweep {sweep.name}, arm '{name}': objectives: {unknown[0]} is nothing that this arm "
            f"tells.{nearest(unknown[0], told)} It tells {', '.join(sorted(told))}."
        )
    tree = str(parts.tree) if arm_cost.num_mixtures else ""
    return PlannedArm(name, tuple(overrides), cfg, tree, arm_cost, 0.0, objectives)


def _turn(sweep: Sweep, arm: PlannedArm, target: float) -> PlannedArm:
    """The arm with its dial at the width that comes closest to the target."""
    dial = sweep.dial(arm.name)
    assert dial is not None
    where = f"sweep {sweep.name}: arms.{arm.name}.dial = {dial}"
    known = keys(arm.cfg)
    if dial not in known or type(OmegaConf.select(arm.cfg, dial)) is not int:
        raise ConfigError(
            f"{where}: must be a whole number of the arm's configuration, such as "
            f"experts.hidden_dim.{'' if dial in known else nearest(dial, known)}"
        )

    @cache
    def at(steps: int) -> float:
        cfg = OmegaConf.merge(arm.cfg)
        OmegaConf.update(cfg, dial, _STEP * steps)
        return getattr(cost(assemble(cfg, device="meta").model), sweep.contract.match)

    if at(2) <= at(1):
        raise ConfigError(f"{where}: {sweep.contract.match} does not grow with it.")
    # Costs grow with a width, not always in a straight line: double, then halve the interval.
    low, high = 1, 2
    while at(high) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) < target else (low, middle)
    width = _STEP * min((low, high), key=lambda steps: abs(at(steps) - target))
    return _plan_arm(sweep, arm.name, [*arm.overrides, f"{dial}={width}"])
