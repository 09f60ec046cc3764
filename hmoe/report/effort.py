"""What the search spent and when: budgets of arms, workers over time, hypervolume over trials."""

from collections.abc import Mapping
from dataclasses import dataclass

from hmoe.report.tables import arms, balance_of, cost_of, ended, quality_of, trials, value
from hmoe.statistics import hypervolume_history
from hmoe.tracking import Run, Study


@dataclass(frozen=True)
class EffortRow:
    """What was spent to tune an arm. Sums are over the trials that tell; `untold` do not."""

    arm: str
    trials: int
    ended: Mapping[str, int]
    train_flops: float
    tokens: float
    seconds: float
    untold: int


@dataclass(frozen=True)
class Span:
    """A run on the lane of a worker, in seconds since the study began."""

    run: Run
    lane: int
    start: float
    end: float


def effort_rows(study: Study) -> list[EffortRow]:
    """Tuning budget of every arm, counted from its trials."""
    rows = []
    for arm in arms(study):
        runs = [run for run in trials(study) if run.arm == arm]
        sums = {
            key: sum(run.cost.get(key, 0.0) for run in runs)
            for key in ("train_flops", "tokens", "seconds")
        }
        rows.append(
            EffortRow(
                arm=arm,
                trials=len(runs),
                ended=ended(runs),
                untold=sum("train_flops" not in run.cost for run in runs),
                **sums,
            )
        )
    return rows


def tuned_equally(study: Study) -> bool:
    """Whether all arms with trials had as many, those that were cut short included."""
    return len({row.trials for row in effort_rows(study) if row.trials}) <= 1


def spans(study: Study) -> list[Span]:
    """Every run that ended on the first free lane: as many lanes as ran at once."""
    free: list[int] = []  # per lane the moment from which it is free
    found = []
    for run in sorted(study.runs, key=lambda run: run.start_ms):
        if run.end_ms is None:
            continue
        lane = next((i for i, moment in enumerate(free) if moment <= run.start_ms), len(free))
        free[lane : lane + 1] = [run.end_ms]
        begun = study.start_ms
        found.append(Span(run, lane, (run.start_ms - begun) / 1000, (run.end_ms - begun) / 1000))
    return found


def hypervolumes(study: Study) -> dict[str, list[float]]:
    """Per arm, and under "" for all, the hypervolume of the complete trials so far.

    Every list has a value for each complete trial of the study, in the order in which they ended.
    The reference point is the worst value of either objective: the scale is the study's own.
    """
    quality, balance = quality_of(study), balance_of(study)
    in_turn = sorted(trials(study), key=lambda run: (run.end_ms or 0, run.name))
    points, names = [], []
    for run in in_turn:
        q, b = value(run, quality), value(run, balance)
        if quality and balance and q is not None and b is not None:
            points.append((cost_of(q, quality), cost_of(b, balance)))
            names.append(run.arm)
    if len(points) < 2:
        return {}
    worst = (max(q for q, _ in points), max(b for _, b in points))
    histories = {"": hypervolume_history(points, worst).tolist()}
    for arm in dict.fromkeys(names):
        own = [p if name == arm else worst for p, name in zip(points, names, strict=True)]
        histories[arm] = hypervolume_history(own, worst).tolist()
    return histories
