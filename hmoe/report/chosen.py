"""By how little the search chose what stands for an arm.

A verdict is of the configurations that were confirmed, and its interval tells how much seeds move
it. Which configuration of an arm is confirmed was decided before, by one trial each: where the next
best was hardly behind, another search may confirm another, and the difference may be another one.
"""

from collections.abc import Iterator, Sequence

from hmoe.report.numbers import number
from hmoe.report.settled import declared_margin
from hmoe.report.tables import cost_of, quality_of, trials, value, varied_params
from hmoe.report.verdicts import confirm_runs
from hmoe.tracking import Objective, Run, Study


def narrowly_chosen(study: Study) -> str:
    """A caution about arms whose next best trial is within the margin; "" without such an arm."""
    margin, quality = declared_margin(study), quality_of(study)
    if margin is None or quality is None:
        return ""
    near = [f"{arm} ({number(lead)})" for arm, lead in _leads(study, quality) if lead < margin]
    if not near:
        return ""
    return (
        f"{', '.join(near)}: the best trial leads the next best by less than the margin of "
        f"{margin:g} in {quality.metric}, each of one seed. Another search may confirm another "
        "configuration; intervals do not count that in."
    )


def _leads(study: Study, quality: Objective) -> Iterator[tuple[str, float]]:
    """By how much the trial of what was confirmed leads the next best, for every arm with a rival.

    What was confirmed is read off the runs, not chosen here once more: a trial that is better and
    was not confirmed lies beyond the bounds of the search, and is no rival.
    """
    varied = varied_params(study)
    confirmed = {run.arm: _settings(run, varied) for run in confirm_runs(study)}
    for arm, chosen in confirmed.items():
        own, others = [], []
        for run in trials(study):
            if run.arm == arm and (found := value(run, quality)) is not None:
                side = own if _settings(run, varied) == chosen else others
                side.append(cost_of(found, quality))
        if own and (behind := [cost - min(own) for cost in others if cost >= min(own)]):
            yield arm, min(behind)


def _settings(run: Run, keys: Sequence[str]) -> list[str | None]:
    return [run.params.get(key) for key in keys]
