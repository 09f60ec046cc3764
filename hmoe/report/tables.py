"""Pure functions from a study to the rows of the report's tables. No text layout, no HTML.

Only trials of the search count here, not runs made to confirm it: those are in `verdicts`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from hmoe.tracking import LevelLoad, Objective, Run, Study

STATES = ("complete", "pruned", "diverged", "failed", "interrupted", "running")
_STATISTICS = ("cv", "max_violation", "entropy", "dead")


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation (None for one value), lowest, highest and number."""

    mean: float
    sd: float | None
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class ArmRow:
    """One arm in the first table. Costs are means over its complete trials."""

    arm: str
    tree: str
    params: float | None
    active_params: float | None
    flops_per_token: float | None
    ended: Mapping[str, int]
    num_seeds: int
    quality: Spread | None
    best: Run | None
    balance: Spread | None


@dataclass(frozen=True)
class BalanceRow:
    """Load statistics of one level of one arm, "expert" for all experts."""

    arm: str
    level: str
    statistics: Mapping[str, Spread | None]


@dataclass(frozen=True)
class LoadRow:
    """Mean load of one level of one arm, with the lowest and highest trial per node."""

    arm: str
    level: str
    nodes: tuple[str, ...]
    even: tuple[float, ...]
    loads: tuple[Spread, ...]


@dataclass(frozen=True)
class EndRow:
    """Runs that ended other than complete, for one reason."""

    state: str
    reason: str
    runs: tuple[Run, ...]


def spread(values: Iterable[float]) -> Spread | None:
    """Summary of some values, None of none."""
    data = list(values)
    if not data:
        return None
    sd = stdev(data) if len(data) > 1 else None
    return Spread(fmean(data), sd, min(data), max(data), len(data))


def trials(study: Study) -> list[Run]:
    """The trials in the order of the arms; an arm that the study does not list comes last."""
    order = {arm: i for i, arm in enumerate(arms(study))}
    return sorted((r for r in study.runs if r.kind == "trial"), key=lambda r: order[r.arm])


def arms(study: Study) -> tuple[str, ...]:
    """Names of all arms in the order of the study."""
    found = (run.arm for run in study.runs if run.kind in ("trial", "confirm"))
    return tuple(dict.fromkeys([*study.arms, *found]))


def quality_of(study: Study) -> Objective | None:
    return study.objectives[0] if study.objectives else None


def balance_of(study: Study) -> Objective | None:
    return study.objectives[1] if len(study.objectives) > 1 else None


def value(run: Run, objective: Objective | None) -> float | None:
    """What a complete run reached on an objective; None if it lacks it, as dense lacks balance."""
    if objective is None or run.state != "complete":
        return None
    metric = objective.metric
    written_apart = metric.startswith(("best/", "final/", "cost/"))
    return run.metrics.get(metric if written_apart else f"final/{metric}")


def cost_of(x: float, objective: Objective) -> float:
    """The value turned so that smaller is better."""
    return x if objective.minimised else -x


def curve_key(objective: Objective) -> str:
    """The metric under which training wrote the curve of an objective."""
    return objective.metric.removeprefix("best/").removeprefix("final/")


def ended(runs: Iterable[Run]) -> dict[str, int]:
    """How many runs ended in each state, those states left out in which none did."""
    found = Counter(run.state for run in runs)
    return {state: found[state] for state in STATES if found[state]}


def arm_rows(study: Study) -> list[ArmRow]:
    """One row an arm, in the order of the study."""
    quality, balance = quality_of(study), balance_of(study)
    rows = []
    for arm in arms(study):
        runs = [run for run in trials(study) if run.arm == arm]
        complete = [run for run in runs if run.state == "complete"]
        rows.append(
            ArmRow(
                arm=arm,
                tree=next((run.tree for run in complete if run.tree), ""),
                params=_mean_cost(complete, "total_params"),
                active_params=_mean_cost(complete, "active_params"),
                flops_per_token=_mean_cost(complete, "flops_per_token"),
                ended=ended(runs),
                num_seeds=len({run.seed for run in complete}),
                quality=spread(_values(complete, quality)),
                best=_best(complete, quality),
                balance=spread(_values(complete, balance)),
            )
        )
    return rows


def pareto_front(study: Study) -> list[Run]:
    """Complete trials that no other beats on one objective without losing on the other.

    Ordered by balance, smallest value first. Trials without both values, such as those of a dense
    control, take no part.
    """
    quality, balance = quality_of(study), balance_of(study)
    points = []
    for run in trials(study):
        q, b = value(run, quality), value(run, balance)
        if quality and balance and q is not None and b is not None:
            points.append((run, (cost_of(q, quality), cost_of(b, balance)), b))
    front = [
        (b, run)
        for run, here, b in points
        if not any(
            there != here and all(t <= h for t, h in zip(there, here, strict=True))
            for _, there, _ in points
        )
    ]
    return [run for _, run in sorted(front, key=lambda pair: pair[0])]


def balance_rows(study: Study) -> list[BalanceRow]:
    """Load statistics on the validation set, per arm and level, over complete trials."""
    rows: list[BalanceRow] = []
    for arm in arms(study):
        complete = [r for r in trials(study) if r.arm == arm and r.state == "complete"]
        levels = sorted({k.rpartition("/")[2] for r in complete for k in r.metrics if _is_load(k)})
        for level in sorted(levels, key=level_order):
            keys = {name: f"final/val/load/{name}/{level}" for name in _STATISTICS}
            statistics = {
                name: spread(r.metrics[key] for r in complete if key in r.metrics)
                for name, key in keys.items()
            }
            # The last level is all experts, so that its row would be told twice.
            if level != "expert" or not rows or rows[-1].statistics != statistics:
                rows.append(BalanceRow(arm, level, statistics))
    return rows


def load_rows(study: Study) -> list[LoadRow]:
    """Load per node. Trials whose tree differs from that of the arm's first are left out."""
    rows = []
    for arm in arms(study):
        loads = [r.level_loads for r in trials(study) if r.arm == arm and r.level_loads]
        for level, first in loads[0].items() if loads else ():
            same = [x[level] for x in loads if level in x and x[level].nodes == first.nodes]
            rows.append(LoadRow(arm, level, first.nodes, first.even, _node_spreads(same)))
    return rows


def end_rows(study: Study) -> list[EndRow]:
    """Trials, and runs that confirm, that did not end complete, by state and reason."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in [*trials(study), *(r for r in study.runs if r.kind == "confirm")]:
        if run.state != "complete":
            groups.setdefault((run.state, run.reason), []).append(run)
    rows = [EndRow(state, reason, tuple(runs)) for (state, reason), runs in groups.items()]
    return sorted(rows, key=lambda row: (STATES.index(row.state), row.reason))


def varied_params(study: Study) -> list[str]:
    """Keys of the swept params that differ between trials."""
    found = trials(study)
    keys = dict.fromkeys(key for run in found for key in run.swept)
    return [key for key in keys if len({run.params[key] for run in found if key in run.params}) > 1]


def _mean_cost(runs: Iterable[Run], key: str) -> float | None:
    known = spread(run.cost[key] for run in runs if key in run.cost)
    return known.mean if known else None


def _values(runs: Iterable[Run], objective: Objective | None) -> list[float]:
    return [x for run in runs if (x := value(run, objective)) is not None]


def _best(runs: Iterable[Run], objective: Objective | None) -> Run | None:
    scored = [(x, run) for run in runs if (x := value(run, objective)) is not None]
    if objective is None or not scored:
        return None
    return min(scored, key=lambda pair: cost_of(pair[0], objective))[1]


def _is_load(key: str) -> bool:
    return key.startswith("final/val/load/")


def level_order(level: str) -> tuple[bool, int]:
    """Sorts "level_0" before "level_1", and "expert" last."""
    number = level.rpartition("_")[2]
    return (not number.isdigit(), int(number) if number.isdigit() else 0)


def _node_spreads(levels: Iterable[LevelLoad]) -> tuple[Spread, ...]:
    nodes = zip(*(level.load for level in levels), strict=True)
    return tuple(s for s in map(spread, nodes) if s is not None)
