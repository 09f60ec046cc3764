"""Whether the gates had settled when training ended, and whether the arms still improved.

An arm that was stopped too early may lose for that alone, and hierarchies over flat gates have been
seen to gain most where the flat gate was fitted least. The runs that confirm an arm count; where it
has none, its trials.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hmoe.report.numbers import number
from hmoe.report.tables import Spread, arms, curve_key, level_order, quality_of, spread
from hmoe.tracking import Objective, Point, Run, Study

_CHURN = "final/val/gate/churn/"
_LATE = 0.75  # the last quarter of the steps begins here


@dataclass(frozen=True)
class SettledRow:
    """How one arm stood when its training ended.

    Attributes:
        num_runs: complete runs that count.
        confirmed: whether they are those that confirm it.
        churn: by level, the share of validation tokens whose node of the level changed since the
            validation before; "expert" stands for the last level. Empty without gates.
        gain: what the first objective improved by from the first validation to the last.
        late_gain: what of it came in the last quarter of the steps.
        share: late gain over gain, of the means; None where nothing was gained.
    """

    arm: str
    num_runs: int
    confirmed: bool
    churn: Mapping[str, Spread]
    gain: Spread | None
    late_gain: Spread | None
    share: float | None


def settled_rows(study: Study) -> list[SettledRow]:
    """A row for each arm with a complete run; none if no run has churn or curve to tell of."""
    rows = [_row(study, arm) for arm in arms(study)]
    if not any(row.churn or row.gain for row in rows):
        return []
    return [row for row in rows if row.num_runs]


def churn_levels(rows: Sequence[SettledRow]) -> list[str]:
    """The levels that some arm has, upper ones first, "expert" last."""
    return sorted({level for row in rows for level in row.churn}, key=level_order)


def declared_margin(study: Study) -> float | None:
    """The largest difference in the first objective that the study declared not to matter."""
    quality = quality_of(study)
    if study.confirmation is None or quality is None:
        return None
    return study.confirmation.margins.get(quality.metric)


def unsettled(study: Study) -> str:
    """A caution about arms whose late gain exceeds the margin; "" where there is none to give."""
    margin, quality = declared_margin(study), quality_of(study)
    if margin is None or quality is None:
        return ""
    late = [
        f"{row.arm} ({number(row.late_gain.mean)})"
        for row in settled_rows(study)
        if row.late_gain is not None and row.late_gain.mean > margin
    ]
    if not late:
        return ""
    were = "was stopped while it" if len(late) == 1 else "were stopped while they"
    return (
        f"{', '.join(late)} {were} still improved by more than the margin of {margin:g} in "
        f"{quality.metric} over the last quarter of training; a longer training may turn the "
        "verdict."
    )


def _row(study: Study, arm: str) -> SettledRow:
    complete = [run for run in study.runs if run.arm == arm and run.state == "complete"]
    confirms = [run for run in complete if run.kind == "confirm"]
    runs = confirms or [run for run in complete if run.kind == "trial"]
    quality = quality_of(study)
    gains = [found for run in runs if quality and (found := _gains(run, quality))]
    gain, late_gain = spread(whole for whole, _ in gains), spread(late for _, late in gains)
    share = late_gain.mean / gain.mean if gain and late_gain and gain.mean > 0 else None
    return SettledRow(arm, len(runs), bool(confirms), _churn(runs), gain, late_gain, share)


def _churn(runs: Sequence[Run]) -> dict[str, Spread]:
    """Churn by level; the last level goes by "expert" alone."""
    keys = {key for run in runs for key in run.metrics if key.startswith(_CHURN)}
    levels = sorted((key.removeprefix(_CHURN) for key in keys), key=level_order)
    spreads = {
        level: spread(r.metrics[_CHURN + level] for r in runs if _CHURN + level in r.metrics)
        for level in [*levels[:-2], *levels[-1:]]
    }
    return {level: found for level, found in spreads.items() if found is not None}


def _gains(run: Run, objective: Objective) -> tuple[float, float] | None:
    """Improvement since the first validation, and since three quarters of the steps.

    The curve between validations is a straight line; None if it begins later than that.
    """
    points: Sequence[Point] = run.history.get(curve_key(objective), ())
    if not points or points[0].step > _LATE * points[-1].step:
        return None
    steps, values = [p.step for p in points], [p.value for p in points]
    late = float(np.interp(_LATE * steps[-1], steps, values))
    sign = 1 if objective.minimised else -1
    return sign * (values[0] - values[-1]), sign * (late - values[-1])
