"""The answer of a study in one sentence, computed from its numbers and labelled for what it is.

Runs that confirm give verdicts. A search is exploratory: its trials chose themselves by their
values. So without a confirmation on fresh, paired seeds the sentence orders and counts, and says
nothing of significance.
"""

from hmoe.report.numbers import count, number, plus_minus
from hmoe.report.tables import (
    ArmRow,
    Spread,
    arm_rows,
    arms,
    balance_of,
    quality_of,
    spread,
    trials,
    value,
    varied_params,
)
from hmoe.report.verdicts import confirm_runs, looked, pair_rows, tested, tested_metric, told
from hmoe.tracking import Objective, Study

_EXPLORATORY = "Exploratory"
# What is said of something, and of each arm; the latter may be empty.
_Part = tuple[str, list[str]]


def answer(study: Study) -> str:
    """One sentence: the verdicts; without any, best and mean of each arm, and what is lacking."""
    head, parts = _parts(study)
    told_of = [f"{lead} {', '.join(items)}".strip() for lead, items in parts]
    return f"{head}: {'; '.join(told_of)}."


def answer_list(study: Study) -> str:
    """The answer as a list in markdown, a line for each arm."""
    head, parts = _parts(study)
    lines = [f"**{head}**", ""]
    for lead, items in parts:
        lines += [f"- {lead}", *(f"    - {item}" for item in items)]
    return "\n".join(lines)


def _parts(study: Study) -> tuple[str, list[_Part]]:
    """On what the answer rests, and what it says."""
    if confirmed := pair_rows(study):
        return told(confirmed, looked(study))
    rows = [row for row in arm_rows(study) if row.quality]
    quality, balance = quality_of(study), balance_of(study)
    if quality is None or not rows:
        ran = count(len(trials(study)), "trial")
        return _EXPLORATORY, [(f"no answer yet, for none of {ran} is complete with a result", [])]
    order = [(row.quality, _on_quality(row, quality)) for row in rows if row.quality]
    parts = [(f"by mean {_named(quality)} the order is", _order(order, quality))]
    even = [(r.balance, f"{r.arm} {_mean(r.balance)}") for r in rows if r.balance]
    if balance is not None and even:
        parts.append((f"by mean {_named(balance)} it is", _order(even, balance)))
    seeds = sorted({row.num_seeds for row in rows})
    few = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else count(seeds[0], "seed")
    varied = " and ".join(varied_params(study))
    also = f", between which {varied} varied too" if varied else ""
    caution = (
        f"this rests on {few} per arm{also}, so the order is a lead and not a finding until it is "
        "confirmed on fresh seeds"
    )
    parts.append((caution, []))
    return _EXPLORATORY, parts


def means(study: Study) -> dict[str, float]:
    """By "metric/arm" the mean on the test set over runs that confirm; without any, over trials."""
    confirmed, found = confirm_runs(study), {}
    for objective in study.objectives:
        metric = tested_metric(objective) if confirmed else objective.metric
        for arm in arms(study):
            own = [run for run in confirmed or trials(study) if run.arm == arm]
            values = [tested(r, objective) if confirmed else value(r, objective) for r in own]
            if summary := spread(x for x in values if x is not None):
                found[f"{metric}/{arm}"] = summary.mean
    return found


def better(objective: Objective) -> str:
    return "lower is better" if objective.minimised else "higher is better"


def _named(objective: Objective) -> str:
    return f"{objective.metric} ({better(objective)})"


def _mean(spread: Spread) -> str:
    return plus_minus(spread.mean, spread.sd)


def _on_quality(row: ArmRow, objective: Objective) -> str:
    assert row.quality is not None
    best = number(value(row.best, objective) if row.best else None)
    return f"{row.arm} {_mean(row.quality)} (best {best}, n = {row.quality.n})"


def _order(rows: list[tuple[Spread, str]], objective: Objective) -> list[str]:
    """The texts from the best mean to the worst."""
    sign = 1 if objective.minimised else -1
    return [text for _, text in sorted(rows, key=lambda row: sign * row[0].mean)]
