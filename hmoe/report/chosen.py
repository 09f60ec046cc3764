"""By how little the search chose what stands for an arm.

A verdict is of the configurations that were confirmed, and its interval tells how much seeds move
it. Which configuration of an arm is confirmed was decided before, by one trial each: where the next
best was hardly behind, another search may confirm another, and the difference may be another one.
"""

from collections.abc import Iterator

from hmoe.report.numbers import number
from hmoe.report.settled import declared_margin
from hmoe.report.tables import arms, cost_of, quality_of, trials, value, varied_params
from hmoe.report.verdicts import confirm_runs
from hmoe.tracking import Objective, Study


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
    """By how much the best trial of every confirmed arm leads the best with other settings."""
    confirmed, varied = {run.arm for run in confirm_runs(study)}, varied_params(study)
    for arm in arms(study):
        own = [run for run in trials(study) if run.arm == arm]
        scored = [
            (cost_of(found, quality), [run.params.get(key, "") for key in varied])
            for run in own
            if (found := value(run, quality)) is not None
        ]
        if arm in confirmed and scored:
            best, chosen = min(scored)
            if others := [cost for cost, settings in scored if settings != chosen]:
                yield arm, min(others) - best
