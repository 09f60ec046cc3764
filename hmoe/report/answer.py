"""The answer of a study in few lines, computed from its numbers and labelled for what it is.

Runs that confirm give verdicts. A search is exploratory: its trials chose themselves by their
values. So without a confirmation on fresh, paired seeds the answer orders and counts, and says
nothing of significance.
"""

from dataclasses import dataclass

from hmoe.report.circumstances import unlike
from hmoe.report.contract import contract_check
from hmoe.report.numbers import count, number, percent, plus_minus
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
from hmoe.report.words import metric_words
from hmoe.tracking import Objective, Study


@dataclass(frozen=True)
class Answer:
    """What a study says: a head, a line for each arm and metric, and what makes it doubtful.

    Attributes:
        doubts: (name, text) of what makes its arms not comparable.
    """

    head: str
    lines: tuple[str, ...]
    doubts: tuple[tuple[str, str], ...]

    @property
    def headline(self) -> str:
        return f"{self.head}{':' if self.lines else '.'}"

    def __str__(self) -> str:
        """For the terminal and for markdown."""
        doubts = [f"{name}: {text}" for name, text in self.doubts]
        lines = ["\n".join(f"- {line}" for line in self.lines)] if self.lines else []
        return "\n\n".join([*doubts, self.headline, *lines])


def answer(study: Study) -> Answer:
    """The verdicts; without any, mean and best of each arm, and what is lacking."""
    pairs = pair_rows(study)
    head, lines = told(pairs, looked(study)) if pairs else _exploratory(study)
    return Answer(head, tuple(lines), tuple(doubts(study)))


def doubts(study: Study) -> list[tuple[str, str]]:
    """(name, text) of what makes the arms of a study not comparable; empty if all is well."""
    found, contract = [], contract_check(study)
    if contract and contract.broken:
        off = ", ".join(f"{r.arm} ({percent(r.deviation, signed=True)})" for r in contract.broken)
        limit = percent(contract.tolerance)
        told_of = f"{contract.match} differs by more than {limit} from the reference in {off}."
        found.append(("Not comparable", told_of))
    if different := unlike(study):
        found.append(("Not made alike", f"runs differ in {'; '.join(different)}."))
    return found


def _exploratory(study: Study) -> tuple[str, list[str]]:
    """What the trials of a search say, arms from the best mean to the worst."""
    rows = [row for row in arm_rows(study) if row.quality]
    quality, balance = quality_of(study), balance_of(study)
    if quality is None or not rows:
        ran = count(len(trials(study)), "trial")
        return f"Exploratory: no answer yet, for none of {ran} is complete with a result", []
    lines = _order([(r.arm, r.quality, _best(r, quality)) for r in rows if r.quality], quality)
    if balance is not None:
        lines += _order([(r.arm, r.balance, "") for r in rows if r.balance], balance)
    seeds = sorted({row.num_seeds for row in rows})
    few = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else count(seeds[0], "seed")
    varied = " and ".join(varied_params(study))
    also = f", between which {varied} varied too" if varied else ""
    head = (
        "Exploratory: arms from the best mean to the worst, a lead and not a finding until "
        f"it is confirmed on fresh seeds, for this rests on {few} per arm{also}"
    )
    return head, lines


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


def _best(row: ArmRow, objective: Objective) -> str:
    assert row.quality is not None
    best = number(value(row.best, objective) if row.best else None)
    return f" (best {best}, n = {row.quality.n})"


def _order(rows: list[tuple[str, Spread, str]], objective: Objective) -> list[str]:
    """A line for each (arm, values, what else is told), from the best mean to the worst."""
    sign = 1 if objective.minimised else -1
    words = f"{metric_words(objective.metric)} ({better(objective)})"
    return [
        f"{arm}, {words}: {plus_minus(values.mean, values.sd)}{more}"
        for arm, values, more in sorted(rows, key=lambda row: sign * row[1].mean)
    ]
