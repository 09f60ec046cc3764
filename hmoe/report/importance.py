"""Which settings of the search mattered: a lead from its trials, no more."""

from dataclasses import dataclass
from statistics import fmean

from hmoe.report.tables import quality_of, trials, value, varied_params
from hmoe.statistics import variance_explained
from hmoe.tracking import Run, Study

ENOUGH = 10  # trials; of fewer any grouping explains much by chance


@dataclass(frozen=True)
class ImportanceRow:
    """The share of the variance of quality's ranks that a setting explains, over n trials."""

    setting: str
    share: float
    n: int


def importance(study: Study) -> list[ImportanceRow]:
    """The arm and every varied setting, the most telling first; none with too few trials.

    Settings are judged within arms: the mean of its arm is taken from the quality of each trial.
    """
    quality = quality_of(study)
    scored = [(run, q) for run in trials(study) if (q := value(run, quality)) is not None]
    rows = []
    if len(scored) >= ENOUGH:
        share = variance_explained([run.arm for run, _ in scored], [q for _, q in scored])
        rows.append(ImportanceRow("arm", share, len(scored)))
    for key in varied_params(study):
        having = [(run, q) for run, q in scored if key in run.params]
        if len(having) >= ENOUGH:
            settings = [_setting(run.params[key]) for run, _ in having]
            rows.append(
                ImportanceRow(key, variance_explained(settings, _within(having)), len(having))
            )
    return sorted(rows, key=lambda row: -row.share)


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
