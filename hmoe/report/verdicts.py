"""The confirmed arms in pairs with what they are compared with, and what may be said of each pair.

Only runs made to confirm count here, on the test set: an objective "val/loss" is judged by
"test/loss". A pair rests on the seeds that both arms completed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from hmoe.report.numbers import count, interval
from hmoe.report.tables import (
    Spread,
    arms,
    balance_of,
    cost_of,
    quality_of,
    spread,
    value,
)
from hmoe.report.words import metric_words
from hmoe.statistics import MOST_MORE_SEEDS, Judgement, Pair, front_membership, judge
from hmoe.tracking import Confirmation, Objective, Run, Study

_RESAMPLES = 10_000


@dataclass(frozen=True)
class PairRow:
    """One arm beside another, its reference, in one metric.

    Attributes:
        seeds, differences: arm minus reference on the seeds that both completed.
        lost: seeds on which one of the two ended without a result.
        planned: seeds that were declared.
    """

    arm: str
    reference: str
    metric: str
    minimised: bool
    margin: float
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    lost: tuple[int, ...]
    planned: int
    judgement: Judgement

    @property
    def won(self) -> str:
        """How many of the paired seeds the arm won, a tie counted half."""
        n = len(self.seeds)
        return f"{(self.judgement.improvement or 0) * n:g} of {n}"

    @property
    def interval(self) -> str:
        found = self.judgement.estimate
        return interval(found.mean, found.low, found.high) if found else interval(None)


@dataclass(frozen=True)
class Membership:
    """Share of resamples of the seeds in which an arm's mean lies on the Pareto front.

    Attributes:
        shares: by arm.
        left_out: confirmed arms that lack an objective.
        num_seeds: seeds that were drawn from.
    """

    shares: Mapping[str, float]
    left_out: tuple[str, ...]
    num_seeds: int

    @property
    def distinct(self) -> int:
        """Resamples that differ: as many as ways to draw n of n seeds, with repetition."""
        return comb(2 * self.num_seeds - 1, self.num_seeds)

    @property
    def few(self) -> bool:
        """Whether those are so few that a share is coarser than the draws suggest."""
        return self.distinct < _RESAMPLES


def confirm_runs(study: Study) -> list[Run]:
    """Runs made to confirm, in the order of the arms and then of the seeds."""
    order = {arm: i for i, arm in enumerate(arms(study))}
    found = (run for run in study.runs if run.kind == "confirm")
    return sorted(found, key=lambda run: (order[run.arm], run.seed or 0))


def tested_metric(objective: Objective) -> str:
    """ "val/loss" as "test/loss"."""
    return f"test/{objective.metric.removeprefix('val/')}"


def tested(run: Run, objective: Objective) -> float | None:
    """What a complete run reached on the test set."""
    return run.metrics.get(f"final/{tested_metric(objective)}") if run.state == "complete" else None


def pair_rows(study: Study) -> list[PairRow]:
    """A row for every pair and every objective with a margin; none before a run confirms.

    The family is what was declared: an arm whose seeds are still to come has a row too.
    """
    confirmation, contract = study.confirmation, study.contract
    if confirmation is None or contract is None or not confirm_runs(study):
        return []
    judged = [
        (arm, reference, objective, _paired(study, arm, reference, objective))
        for objective in study.objectives
        if objective.metric in confirmation.margins
        for arm in _declared(study, confirmation)
        for reference in [confirmation.against.get(arm, str(contract.reference))]
        if arm != reference and _has(study, arm, objective) and _has(study, reference, objective)
    ]
    pairs = [
        Pair(list(found.values()), confirmation.margins[objective.metric], objective.minimised)
        for _, _, objective, found in judged
    ]
    return [
        PairRow(
            arm=arm,
            reference=reference,
            metric=tested_metric(objective),
            minimised=objective.minimised,
            margin=confirmation.margins[objective.metric],
            seeds=tuple(found),
            differences=tuple(found.values()),
            lost=tuple(sorted(_ended(study, arm, reference) - set(found))),
            planned=confirmation.seeds,
            judgement=judgement,
        )
        for (arm, reference, objective, found), judgement in zip(
            judged, judge(pairs, confirmation.alpha), strict=True
        )
    ]


def common_reference(rows: Sequence[PairRow]) -> str:
    """The one arm that all are compared with, "" if there are several."""
    names = {row.reference for row in rows}
    return names.pop() if len(names) == 1 else ""


def forest_panels(study: Study) -> dict[str, list[PairRow]]:
    """By metric, the pairs that have an interval: what a forest plot shows."""
    panels: dict[str, list[PairRow]] = {}
    for row in pair_rows(study):
        if row.judgement.estimate:
            panels.setdefault(row.metric, []).append(row)
    return panels


def cross(study: Study, arm: str) -> tuple[Spread, Spread, int] | None:
    """Balance, quality and number of an arm's confirming runs, None where they have not both.

    On the validation set, as the trials are, so that both share the axes of a plot.
    """
    balance, quality = balance_of(study), quality_of(study)
    points = [
        (b, q)
        for run in confirm_runs(study)
        if run.arm == arm
        and (b := value(run, balance)) is not None
        and (q := value(run, quality)) is not None
    ]
    if not points:
        return None
    x, y = (spread(values) for values in zip(*points, strict=True))
    assert x is not None
    assert y is not None
    return x, y, len(points)


def verdict_words(row: PairRow) -> str:
    """The verdict with the reference: "better than flat", "undecided against flat, ..."."""
    verdict = row.judgement.verdict
    if verdict == "undecided":
        return f"undecided against {row.reference}, {needed(row)}"
    joined = {"equivalent": "equivalent to", "better": "better than", "worse": "worse than"}
    return f"{joined[verdict]} {row.reference}"


def needed(row: PairRow) -> str:
    """What an undecided pair lacks."""
    if row.judgement.estimate is None:
        return "fewer than 2 paired seeds so far"
    if row.judgement.more_seeds is None:
        return f"more than {MOST_MORE_SEEDS} more seeds needed"
    more = row.judgement.more_seeds
    return f"about {count(more, 'more seed')} needed"


def looked(study: Study) -> str:
    """What seeds added after a look cost: "" where the plan was kept, or nothing is known.

    Seeds that were added because of what others showed are drawn by their own result, so that the
    declared error rate holds for none of the verdicts.
    """
    if study.confirmation is None:
        return ""
    seeds = sorted({*study.looks, max(study.confirmation.seeds, *study.looks, 0)})
    if len(seeds) < 2:
        return ""
    later = [f"{n} after a {'further' if i else 'first'} look" for i, n in enumerate(seeds[1:])]
    return (
        f"{count(seeds[0], 'seed')}, {', '.join(later)}: the error rate is no longer the declared "
        f"{study.confirmation.alpha:g}"
    )


def told(rows: list[PairRow], looked: str) -> tuple[str, list[str]]:
    """On what the verdicts rest, and a line for each; `looked` is what `looked` says of them."""
    seeds = sorted({len(row.seeds) for row in rows})
    number_of = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    waiting = any(len(row.seeds) + len(row.lost) < row.planned for row in rows)
    if waiting:
        head = f"Confirmation under way, on {number_of} of {rows[0].planned} paired seeds"
        head += f", {looked}" if looked else ""
    elif looked:
        head = looked
    else:
        head = f"Confirmed on {number_of} fresh paired seed{'' if seeds == [1] else 's'}"
    return head, [
        f"{row.arm}, {metric_words(row.metric)}: {verdict_words(row)} ({_difference(row)})"
        for row in rows
    ]


def membership(study: Study) -> Membership | None:
    """How often each confirmed arm lies on the Pareto front; None without two arms or two seeds.

    Arms that lack an objective, such as a dense control, take no part; the seeds are those that all
    others completed.
    """
    quality, balance = quality_of(study), balance_of(study)
    if quality is None or balance is None:
        return None
    confirmed = confirm_runs(study)
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for run in confirmed:
        q, b = tested(run, quality), tested(run, balance)
        if q is not None and b is not None and run.seed is not None:
            found.setdefault(run.arm, {})[run.seed] = (cost_of(q, quality), cost_of(b, balance))
    shared = sorted(set.intersection(*map(set, found.values()))) if found else []
    if len(found) < 2 or len(shared) < 2:
        return None
    values = np.array([[points[seed] for seed in shared] for points in found.values()])
    shares = front_membership(values, num_resamples=_RESAMPLES, seed=0)
    others = dict.fromkeys(run.arm for run in confirmed if run.arm not in found)
    return Membership(dict(zip(found, shares.tolist(), strict=True)), tuple(others), len(shared))


def _difference(row: PairRow) -> str:
    parts = [row.interval] if row.judgement.estimate else []
    parts.append(f"margin {row.margin:g}")
    if row.lost:
        parts.append(f"{count(len(row.lost), 'seed')} lost")
    return ", ".join(parts)


def _declared(study: Study, confirmation: Confirmation) -> list[str]:
    """The arms of the family, and any others that were run."""
    family = confirmation.arms or study.arms
    return list(dict.fromkeys([*family, *(run.arm for run in confirm_runs(study))]))


def _values(study: Study, arm: str, objective: Objective) -> dict[int, float]:
    found = ((r.seed, tested(r, objective)) for r in confirm_runs(study) if r.arm == arm)
    return {seed: x for seed, x in found if seed is not None and x is not None}


def _paired(study: Study, arm: str, reference: str, objective: Objective) -> dict[int, float]:
    """Arm minus reference by seed."""
    own, other = (_values(study, name, objective) for name in (arm, reference))
    return {seed: x - other[seed] for seed, x in sorted(own.items()) if seed in other}


def _has(study: Study, arm: str, objective: Objective) -> bool:
    """Whether an arm may have the metric: a dense control has no load. Unknown before it ran."""
    ran = any(run.arm == arm and run.state == "complete" for run in confirm_runs(study))
    return not ran or bool(_values(study, arm, objective))


def _ended(study: Study, arm: str, reference: str) -> set[int]:
    """Seeds on which one of the two ended without a result."""
    lost = ("failed", "diverged")
    runs = (r for r in confirm_runs(study) if r.arm in (arm, reference) and r.state in lost)
    return {run.seed for run in runs if run.seed is not None}
