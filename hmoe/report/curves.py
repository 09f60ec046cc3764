"""Learning curves of an arm: the mean over complete trials, and the band from lowest to highest.

Pure functions over points. Trials that were cut short are left out: the mean over those still
alive would improve by their leaving.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from hmoe.report.tables import trials
from hmoe.tracking import Point, Study

_GRID = 60  # points of a curve over seconds, where trials share no positions


@dataclass(frozen=True)
class Band:
    """Mean, lowest and highest value over trials at each position."""

    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int


def over_steps(study: Study, arm: str, metric: str) -> Band | None:
    """Band over those steps that all of the arm's complete trials have; None without any."""
    curves = [{p.step: p.value for p in points} for points in _curves(study, arm, metric)]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    return _band(steps, [[curve[step] for step in steps] for curve in curves])


def over_seconds(study: Study, arm: str, metric: str) -> Band | None:
    """Band over training time, from when the last trial has a value until the first one ends."""
    curves = _curves(study, arm, metric)
    if not curves:
        return None
    start = max(points[0].seconds for points in curves)
    end = min(points[-1].seconds for points in curves)
    if end <= start:
        return None
    grid = [start + (end - start) * i / (_GRID - 1) for i in range(_GRID)]
    return _band(grid, [[_at(points, x) for x in grid] for points in curves])


def _curves(study: Study, arm: str, metric: str) -> list[tuple[Point, ...]]:
    complete = (r for r in trials(study) if r.arm == arm and r.state == "complete")
    return [run.history[metric] for run in complete if run.history.get(metric)]


def _band(x: Sequence[float], rows: Sequence[Sequence[float]]) -> Band | None:
    if not x:
        return None
    columns = list(zip(*rows, strict=True))
    return Band(
        tuple(x),
        tuple(map(fmean, columns)),
        tuple(map(min, columns)),
        tuple(map(max, columns)),
        len(rows),
    )


def _at(points: Sequence[Point], seconds: float) -> float:
    """The curve between its points, by straight lines."""
    i = min(max(bisect_left(points, seconds, key=lambda p: p.seconds), 1), len(points) - 1)
    a, b = points[i - 1], points[i]
    if b.seconds <= a.seconds:
        return b.value
    share = min(max((seconds - a.seconds) / (b.seconds - a.seconds), 0.0), 1.0)
    return a.value + share * (b.value - a.value)
