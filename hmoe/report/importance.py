"""Which settings of the search mattered: a lead from its trials, no more.

Arms usually share the settings and the seed of their i-th trial, so that a search of five arms and
three trials has tried three settings and not fifteen. Trials that share both are one draw here.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from hmoe.report.numbers import count
from hmoe.report.tables import quality_of, trials, value, varied_params
from hmoe.statistics import rank_correlation, variance_explained
from hmoe.tracking import Run, Study

ENOUGH = 10  # trials, or draws; of fewer any grouping explains much by chance
_TOGETHER = 0.7  # rank correlation from which one setting tells about half of the other's ranks


@dataclass(frozen=True)
class ImportanceRow:
    """The share of the variance of quality's ranks that a setting explains, over n draws."""

    setting: str
    share: float
    n: int


def importance(study: Study) -> list[ImportanceRow]:
    """The arm and every varied setting, the most telling first; those with few draws are left out.

    Settings are judged within arms: the mean of its arm is taken from the quality of each trial,
    and the trials of one draw count as one, with their mean.
    """
    scored = _scored(study)
    rows = []
    if len(scored) >= ENOUGH:
        share = variance_explained([run.arm for run, _ in scored], [q for _, q in scored])
        rows.append(ImportanceRow("arm", share, len(scored)))
    for key in varied_params(study):
        draws = _draws(study, key)
        if len(draws) >= ENOUGH:
            settings = [_setting(runs[0].params[key]) for runs, _ in draws]
            share = variance_explained(settings, [q for _, q in draws])
            rows.append(ImportanceRow(key, share, len(draws)))
    return sorted(rows, key=lambda row: -row.share)


def cautions(study: Study) -> list[str]:
    """Why a setting has no share, and which shares cannot be told apart."""
    found, enough = [], []
    for key in varied_params(study):
        draws = _draws(study, key)
        if len(draws) >= ENOUGH:
            enough.append(key)
        else:
            settings = {runs[0].params[key] for runs, _ in draws}
            drawn = f" in {count(len(draws), 'draw')}" if len(settings) < len(draws) else ""
            found.append(
                f"{key}: {count(len(settings), 'distinct setting')}{drawn}: too few to tell"
            )
    for one, other in combinations(enough, 2):
        both = [runs[0].params for runs, _ in _draws(study, one) if other in runs[0].params]
        a, b = ([_setting(params[key]) for params in both] for key in (one, other))
        if len(both) < 2 or any(isinstance(x, str) for x in (*a, *b)):
            continue
        together = rank_correlation(a, b)
        if abs(together) >= _TOGETHER:
            found.append(
                f"{one} and {other} moved together (rank correlation {together:.2f}): "
                "what one explains may be the other's doing"
            )
    return found


def _scored(study: Study) -> list[tuple[Run, float]]:
    quality = quality_of(study)
    return [(run, q) for run in trials(study) if (q := value(run, quality)) is not None]


def _draws(study: Study, key: str) -> list[tuple[list[Run], float]]:
    """The trials of each draw that has a setting, and their mean quality beside that of their arm.

    A draw is told by its seed and by those varied settings that all these trials have.
    """
    having = [(run, q) for run, q in _scored(study) if key in run.params]
    shared = [k for k in varied_params(study) if all(k in run.params for run, _ in having)]
    draws: dict[Hashable, list[tuple[Run, float]]] = {}
    for (run, _), q in zip(having, _within(having), strict=True):
        drawn = (run.seed, *(run.params[k] for k in shared))
        draws.setdefault(drawn, []).append((run, q))
    return [([run for run, _ in own], fmean(q for _, q in own)) for own in draws.values()]


def _within(scored: list[tuple[Run, float]]) -> list[float]:
    """Quality of each trial beside the mean of its arm."""
    by_arm: dict[str, list[float]] = {}
    for run, q in scored:
        by_arm.setdefault(run.arm, []).append(q)
    return [q - fmean(by_arm[run.arm]) for run, q in scored]


def _setting(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
