"""Which rule of pruning would have cost and kept how much? Replays over sweeps without pruning.

    python reports/pruning/rules.py runs/pruning_off runs_1/pruning_off ...

takes the study folders of sweeps in which every trial was trained to its end, and plays 1,000
random orders of their trials through each rule: two workers, speeds that differ by up to 10 %,
verdicts at once. A cell tells how many times less FLOPs a sweep takes, its loss of hypervolume from
the worst point of the search, in how many orders that is within 2 %, and the loss from the median
point: medians over orders. Sets of trials are the bits of an integer, so that this takes minutes.
"""

import heapq
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hmoe.statistics import hypervolume
from hmoe.study.pruning import Mark, crowding, rung_steps
from hmoe.study.sections import Pruning

OBJECTIVES = ("val/bits_per_byte", "val/load/cv/expert")  # lower is better
ORDERS = 1000

# Does trial i of an arm go on from a step, among those that have reached it (i included)?
Rule = Callable[["Arm", int, int, int], bool]


def members(bits: int) -> Iterator[int]:
    return (i for i in range(bits.bit_length()) if bits >> i & 1)


@dataclass(frozen=True)
class Arm:
    """Validations of each trial by step, what is judged there, and by whom it is dominated."""

    curves: list[dict[int, Mark]]
    judged: list[dict[int, Mark]]
    dominators: dict[int, list[int]]
    flops_per_step: float

    @property
    def steps(self) -> list[int]:
        return sorted(self.dominators)

    @property
    def finals(self) -> list[tuple[float, ...]]:
        return [curve[self.steps[-1]].losses for curve in self.curves]

    def fronts(self, step: int, there: int) -> Iterator[int]:
        while there:
            front = sum(1 << i for i in members(there) if not self.dominators[step][i] & there)
            yield front
            there &= ~front

    def better(self, step: int, i: int, there: int) -> tuple[int, int]:
        """How many are in better fronts, and how many of its own front are less crowded."""
        ahead = 0
        for front in self.fronts(step, there):
            if front >> i & 1:
                marks = [self.judged[j][step] for j in members(front)]
                alone = zip(crowding(marks), marks, strict=True)
                keys = dict(zip(members(front), ((-a, *m.losses) for a, m in alone), strict=True))
                return ahead, sum(key < keys[i] for key in keys.values())
            ahead += front.bit_count()
        raise ValueError(f"trial {i} is not there")


def judge(curves: list[dict[int, Mark]], flops_per_step: float, last: int = 1) -> Arm:
    """An arm in which the mean of the last validations is judged."""

    def mean(curve: dict[int, Mark], step: int) -> Mark:
        recent = [mark.losses for at, mark in sorted(curve.items()) if at <= step][-last:]
        return Mark(tuple(statistics.fmean(column) for column in zip(*recent, strict=True)))

    judged = [{step: mean(curve, step) for step in curve} for curve in curves]
    dominators = {
        step: [
            sum(1 << j for j, other in enumerate(judged) if other[step].dominates(own[step]))
            for own in judged
        ]
        for step in judged[0]
    }
    return Arm(curves, judged, dominators, flops_per_step)


def read(folder: Path) -> list[Arm]:
    arms = []
    for place in sorted({trial.parent for trial in folder.glob("*/trial_*")}):
        curves = []
        for trial in sorted(place.glob("trial_*")):
            events = map(json.loads, (trial / "events.jsonl").read_text().splitlines())
            curves.append(
                {
                    event["step"]: Mark(tuple(event["metrics"][o] for o in OBJECTIVES))
                    for event in events
                    if OBJECTIVES[0] in event["metrics"]
                }
            )
        flops = json.loads((trial / "result.json").read_text())["cost"]["train_flops"]
        arms.append(judge(curves, flops / max(curves[0])))
    return arms


def best(keep: float) -> Rule:
    """The best `keep`, a front thinned by crowding: as hmoe pruned at first."""

    def rule(arm: Arm, step: int, i: int, there: int) -> bool:
        places = math.floor(there.bit_count() * keep + 1e-9)
        return places == 0 or sum(arm.better(step, i, there)) < places

    return rule


def front_or_best(keep: float) -> Rule:
    """Those whom none dominates, and the best `keep`."""
    thinned = best(keep)
    return lambda arm, step, i, there: (
        not arm.dominators[step][i] & there or thinned(arm, step, i, there)
    )


def whole_fronts(keep: float) -> Rule:
    """As many fronts as it takes to fill `keep`, none of them thinned."""

    def rule(arm: Arm, step: int, i: int, there: int) -> bool:
        places = math.floor(there.bit_count() * keep + 1e-9)
        return places == 0 or arm.better(step, i, there)[0] < places

    return rule


def dominated(share: float) -> Rule:
    """Those whom at most a share of the others dominates."""
    return lambda arm, step, i, there: (
        (arm.dominators[step][i] & there).bit_count() <= share * (there.bit_count() - 1)
    )


def late(trials: int, rule: Rule) -> Rule:
    """No verdict before so many are there."""
    return lambda arm, step, i, there: there.bit_count() < trials or rule(arm, step, i, there)


Outcome = tuple[float, list[tuple[float, ...]]]  # FLOPs, and the final values of who ended


class Replay:
    """One random order of the trials, arm by arm in turn, under a rule with rungs."""

    def __init__(
        self, arms: list[Arm], rungs: tuple[int, ...], rule: Rule, dice: random.Random
    ) -> None:
        self.arms, self.rule, self.dice = arms, rule, dice
        self.stops = (*rungs, arms[0].steps[-1])
        orders = [dice.sample(range(len(arm.curves)), len(arm.curves)) for arm in arms]
        self.queue = [job for jobs in zip(*orders, strict=True) for job in enumerate(jobs)]
        self.there = {(a, rung): 0 for a in range(len(arms)) for rung in range(len(self.stops))}
        self.passed = dict(self.there)
        self.busy: list[tuple[float, int, int, int]] = []  # until when, arm, trial, rung it is to
        self.flops = 0.0
        self.ended: list[tuple[float, ...]] = []

    def train(self, now: float, a: int, i: int, rung: int) -> None:
        """A worker takes a trial to a rung, from the one before."""
        steps = self.stops[rung] - (self.stops[rung - 1] if rung else 0)
        self.flops += self.arms[a].flops_per_step * steps
        until = now + steps * self.dice.uniform(0.9, 1.1)
        heapq.heappush(self.busy, (until, a, i, rung))

    def arrive(self) -> tuple[float, int, int, int]:
        now, a, i, rung = heapq.heappop(self.busy)
        self.there[a, rung] |= 1 << i
        if rung == len(self.stops) - 1:
            self.ended.append(self.arms[a].finals[i])
        return now, a, i, rung

    def passes(self, a: int, i: int, rung: int) -> bool:
        return self.rule(self.arms[a], self.stops[rung], i, self.there[a, rung])

    def stopping(self) -> Outcome:
        """A trial is judged as it arrives, and stopped for good or let go on."""
        for now in (0.0, self.dice.random()):
            self.train(now, *self.queue.pop(0), 0)
        while self.busy:
            now, a, i, rung = self.arrive()
            if rung < len(self.stops) - 1 and self.passes(a, i, rung):
                self.train(now, a, i, rung + 1)
            elif self.queue:
                self.train(now, *self.queue.pop(0), 0)
        return self.flops, self.ended

    def promoting(self, wait: int) -> Outcome:
        """A trial pauses at each rung till it passes, when `wait` and more are there."""

        def next_job() -> tuple[int, int, int] | None:
            for rung in reversed(range(len(self.stops) - 1)):
                for a in range(len(self.arms)):
                    there = self.there[a, rung]
                    for i in members(there & ~self.passed[a, rung]):
                        if there.bit_count() >= wait and self.passes(a, i, rung):
                            self.passed[a, rung] |= 1 << i
                            return a, i, rung + 1
            return (*self.queue.pop(0), 0) if self.queue else None

        now = 0.0
        while True:
            while len(self.busy) < 2 and (job := next_job()):
                self.train(now, *job)
            if not self.busy:
                return self.flops, self.ended
            now = self.arrive()[0]


def told(arms: list[Arm], play: Callable[[list[Arm], random.Random], Outcome]) -> str:
    """One cell."""
    finals = [final for arm in arms for final in arm.finals]
    worst = tuple(max(column) for column in zip(*finals, strict=True))
    median = tuple(statistics.median(column) for column in zip(*finals, strict=True))
    whole = sum(arm.flops_per_step * arm.steps[-1] * len(arm.curves) for arm in arms)
    dice = random.Random(0)
    less, losses, from_median = [], [], []
    for _ in range(ORDERS):
        flops, ended = play(arms, dice)
        less.append(whole / flops)
        losses.append(hypervolume(ended, worst) / hypervolume(finals, worst) - 1)
        from_median.append(hypervolume(ended, median) / hypervolume(finals, median) - 1)
    share = sum(loss >= -0.02 for loss in losses) / ORDERS
    return (
        f"{statistics.median(less):.2f} x, {statistics.median(losses):+.1%}, {share:.0%}, "
        f"{statistics.median(from_median):+.0%}"
    )


def main() -> None:
    studies = [read(Path(folder)) for folder in sys.argv[1:]]

    def row(
        name: str, first: float, keep: float, rule: Rule, *, last: int = 1, wait: int = 0
    ) -> None:
        steps = studies[0][0].steps
        rungs = rung_steps(Pruning(first=first, keep=keep), steps[-1], steps[0])

        def play(arms: list[Arm], dice: random.Random) -> Outcome:
            one = Replay(arms, rungs, rule, dice)
            return one.promoting(wait) if wait else one.stopping()

        seen = [[judge(arm.curves, arm.flops_per_step, last) for arm in arms] for arms in studies]
        cells = " | ".join(told(arms, play) for arms in seen)
        print(f"| {name} | {first:g}, {keep:g} | {cells} |", flush=True)

    row("best", 0.1, 0.333, best(0.333))
    row("best", 0.2, 0.5, best(0.5))
    row("best", 0.1, 0.7, best(0.7))
    row("front 1 or best", 0.1, 0.7, front_or_best(0.7))
    row("front 1 or best", 0.15, 0.65, front_or_best(0.65))
    row("whole fronts", 0.1, 0.65, whole_fronts(0.65))
    row("whole fronts", 0.15, 0.6, whole_fronts(0.6))
    row("dominated by at most 15 %", 0.15, 0.6, dominated(0.15))
    row("dominated by at most 20 %", 0.2, 0.7, dominated(0.2))
    row("best, no verdict before 9 are there", 0.1, 0.333, late(9, best(0.333)))
    row("front 1 or best, by the mean of 2", 0.15, 0.6, front_or_best(0.6), last=2)
    row("best, promoted", 0.1, 0.333, best(0.333), wait=4)
    row("best, promoted", 0.2, 0.4, best(0.4), wait=3)


if __name__ == "__main__":
    main()
