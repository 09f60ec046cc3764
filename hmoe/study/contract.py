"""The budget contract: turn one dial of every arm until all arms spend the same.

Costs are worked out on models without memory, so a plan takes a second; only a contract on seconds
needs a probe. An arm's dial is a whole number of its configuration. Without one in the sweep file
an arm that misses the contract gets the contract's own: the steps where tokens or seconds are to be
alike, else the width of the experts, unless the arm's overrides say that number themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from omegaconf import DictConfig, OmegaConf

from hmoe.config import compose, keys
from hmoe.errors import ConfigError, nearest
from hmoe.models import Cost, cost
from hmoe.study.sections import Match
from hmoe.study.space import overlap, settings_of
from hmoe.study.spec import Sweep
from hmoe.training import Parts, assemble, tokens_per_step, validation_metrics

# Widths move in steps that every grouped product can take, all else by ones.
_WIDTH_STEP = 8
_STEPS = "trainer.max_steps"
WIDTH = "experts.hidden_dim"

Seconds = Callable[[DictConfig], float | None]
"""How long a run of a configuration will take, None if unknown: see `hmoe.study.plan`."""


@dataclass(frozen=True)
class Spend:
    """What one run of an arm spends, by each quantity on which arms can be matched.

    Attributes:
        active_params: parameters met by one token, gates included.
        total_params: all parameters.
        train_flops: of the whole training, 3 times the forward FLOPs of its tokens.
        tokens: read in training; a vector is one.
        seconds: of the whole run, as a probe foretells them; None without a probe.
    """

    active_params: float
    total_params: float
    train_flops: float
    tokens: float
    seconds: float | None


@dataclass(frozen=True)
class PlannedArm:
    """An arm as it will run.

    Attributes:
        name: of the arm.
        overrides: its overrides, with the dial where the contract put it.
        cfg: the configuration they compose to.
        tree: its organisation, "" for a dense control.
        cost: what it costs.
        spend: what one run of it spends.
        dial: the key that was turned, "" if none was.
        deviation: share by which it misses the reference in the matched quantity; signed.
        neighbours: the settings of the dial below and above the reference, each with its
            deviation; none if no dial was turned.
        objectives: those metrics of the study that the arm has: a dense control has no load, nor
            have slots.
    """

    name: str
    overrides: Sequence[str]
    cfg: DictConfig
    tree: str
    cost: Cost
    spend: Spend
    dial: str
    deviation: float
    objectives: tuple[str, ...]
    neighbours: tuple[tuple[str, float], ...] = ()

    @property
    def setting(self) -> str:
        """The dial where it was turned to, as an override; "" without one."""
        return f"{self.dial}={OmegaConf.select(self.cfg, self.dial)}" if self.dial else ""


def compose_arms(sweep: Sweep) -> list[PlannedArm]:
    """The arms as the sweep file has them, no dial turned and nothing probed.

    Raises:
        ConfigError: an arm does not compose.
    """
    return [_plan_arm(sweep, name, sweep.arm_overrides(name)) for name in sweep.arms]


def match_arms(
    sweep: Sweep, composed: Sequence[PlannedArm], seconds: Seconds | None = None
) -> list[PlannedArm]:
    """The arms, each as near to the contract as its dial brings it.

    Whether that will do, `hmoe.study.faults` says.

    Args:
        sweep: the study.
        composed: its arms; all of them, for a mistake is told before the first is probed.
        seconds: what a probe foretells; only a contract on seconds asks.

    Raises:
        ConfigError: a dial cannot be turned, or seconds are needed and unknown.
    """
    match = sweep.contract.match
    asked = seconds if match == "seconds" else None
    first = {arm.name: timed(arm, asked) for arm in composed}
    target = matched(first[sweep.contract.reference].spend, match)
    planned = []
    for arm in first.values():
        arm = replace(arm, deviation=matched(arm.spend, match) / target - 1)
        if dial := _dial(sweep, arm):
            arm = _turn(sweep, arm, dial, target, asked)
        planned.append(arm)
    return planned


def timed(arm: PlannedArm, seconds: Seconds | None) -> PlannedArm:
    """The arm with the seconds of its run, None where they are unknown.

    Raises:
        ConfigError: the probe failed.
    """
    try:
        known = seconds(arm.cfg) if seconds else None
    except ConfigError as error:
        raise ConfigError(f"arm '{arm.name}': {error}") from error
    return replace(arm, spend=replace(arm.spend, seconds=known))


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
    bounds = [m for m in sweep.search.bounds if has_load or not m.startswith("val/load/")]
    for place, wanted in (
        ("objectives", objectives or sweep.objectives),
        ("search.bounds", bounds),
    ):
        if unknown := sorted(set(wanted) - told):
            raise ConfigError(
                f"sweep {sweep.name}, arm '{name}': {place}: {unknown[0]} is nothing that this arm "
                f"tells.{nearest(unknown[0], told)} It tells {', '.join(sorted(told))}."
            )
    return PlannedArm(
        name=name,
        overrides=tuple(overrides),
        cfg=cfg,
        tree=str(parts.tree) if arm_cost.num_mixtures else "",
        cost=arm_cost,
        spend=_spend(parts, arm_cost, None),
        dial="",
        deviation=0.0,
        objectives=objectives,
    )


def spend_of(cfg: DictConfig) -> Spend:
    """What a run of a configuration spends, its seconds unknown.

    Raises:
        ConfigError: its parts are wrong in themselves or do not go together.
    """
    parts = assemble(cfg, device="meta")
    return _spend(parts, cost(parts.model), None)


def _spend(parts: Parts, arm_cost: Cost, seconds: float | None) -> Spend:
    tokens = parts.options.max_steps * tokens_per_step(parts.data)
    return Spend(
        active_params=arm_cost.active_params,
        total_params=arm_cost.total_params,
        train_flops=arm_cost.train_flops(tokens),
        tokens=tokens,
        seconds=seconds,
    )


def matched(spend: Spend, match: Match) -> float:
    """What a run spends of the quantity that a contract is about.

    Raises:
        ConfigError: these are seconds, and they are unknown.
    """
    value = getattr(spend, match)
    if value is None:
        raise ConfigError(
            "contract.match = seconds: how long an arm takes is known from a probe alone. Run "
            "`hmoe plan` without probe=false first."
        )
    return float(value)


def _dial(sweep: Sweep, arm: PlannedArm) -> str | None:
    """The key to turn: the arm's own, or the contract's if it is needed and free."""
    if arm.name == sweep.contract.reference:
        return None
    if dial := sweep.dial(arm.name):
        return dial
    dial = _STEPS if sweep.contract.match in ("tokens", "seconds") else WIDTH
    own = sweep.arm_overrides(arm.name)[len(sweep.overrides) :]
    keys_searched = sweep.searched.keys()
    searched = any(overlap(dial, key) for key in keys_searched)
    free = dial not in settings_of(own) and not searched and _is_whole(arm.cfg, dial)
    return dial if free and abs(arm.deviation) > sweep.contract.tolerance else None


def _turn(
    sweep: Sweep, arm: PlannedArm, dial: str, target: float, seconds: Seconds | None
) -> PlannedArm:
    """The arm with its dial at the number that comes closest to the target."""
    match, where = sweep.contract.match, f"sweep {sweep.name}: arms.{arm.name}.dial = {dial}"
    if not _is_whole(arm.cfg, dial):
        known = keys(arm.cfg)
        raise ConfigError(
            f"{where}: must be a whole number of the arm's configuration, such as "
            f"{WIDTH}.{'' if dial in known else nearest(dial, known)}"
        )
    if match == "seconds" and dial != _STEPS:
        raise ConfigError(
            f"{where}: with contract.match = seconds it must be {_STEPS}, for the probe takes a "
            "few steps of the arm as it is."
        )
    step = _WIDTH_STEP if dial.endswith("dim") else 1

    @cache
    def at(steps: int) -> float:
        cfg = OmegaConf.merge(arm.cfg)
        assert isinstance(cfg, DictConfig)
        OmegaConf.update(cfg, dial, step * steps)
        try:
            parts = assemble(cfg, device="meta")
        except ConfigError as error:
            raise ConfigError(f"{where}, at {step * steps}: {error}") from error
        known = seconds(cfg) if seconds else None
        return matched(_spend(parts, cost(parts.model), known), match)

    here = max(1, OmegaConf.select(arm.cfg, dial) // step)
    if at(2 * here) <= at(here):
        raise ConfigError(f"{where}: {match} does not grow with it.")
    # Costs grow with a width, not always in a straight line: find an interval, then halve it.
    low = high = here
    while at(high) < target:
        low, high = high, 2 * high
    while low > 1 and at(low) > target:
        low, high = low // 2, low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) < target else (low, middle)
    number = step * min((low, high), key=lambda steps: abs(at(steps) - target))
    turned = timed(_plan_arm(sweep, arm.name, [*arm.overrides, f"{dial}={number}"]), seconds)
    return replace(
        turned,
        dial=dial,
        deviation=matched(turned.spend, match) / target - 1,
        neighbours=tuple((f"{dial}={step * n}", at(n) / target - 1) for n in (low, high)),
    )


def _is_whole(cfg: DictConfig, key: str) -> bool:
    return key in keys(cfg) and type(OmegaConf.select(cfg, key)) is int
