"""Compute and hypervolume of a pruned sweep beside those of its twin without pruning.

    python reports/pruning/compare.py pruning runs/pruning runs/pruning_off

takes the name of the sweep file and the folders of the two studies. It also replays the verdicts
over the validations of the twin, in random orders of its trials and one trial at a time: what
pruning would have cost and kept, had the same trials come otherwise.
"""

import json
import random
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from hmoe.config import compose
from hmoe.statistics import hypervolume
from hmoe.study import load_sweep
from hmoe.study.pruning import Mark, rung_steps, stand

SWEEP = load_sweep(sys.argv[1])
PRUNING, OBJECTIVES = SWEEP.search.pruning, SWEEP.objectives
assert PRUNING is not None
assert SWEEP.directions == ["minimize", "minimize"]
TRAINER = compose(SWEEP.overrides).trainer
MAX_STEPS, EVERY = TRAINER.max_steps, TRAINER.val_every
assert TRAINER.log_every == EVERY  # so that the last line tells the steps of a stopped trial
ORDERS = 1000


@dataclass(frozen=True)
class Trial:
    """Objectives by step of validation, the last step known, and whether it was trained whole."""

    curve: dict[int, tuple[float, ...]]
    steps: int
    flops_per_step: float | None

    @property
    def final(self) -> tuple[float, ...]:
        return self.curve[MAX_STEPS]


def read(folder: Path) -> Trial:
    """A trial from its run folder."""
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    curve = {
        line["step"]: tuple(line["metrics"][o] for o in OBJECTIVES)
        for line in lines
        if OBJECTIVES[0] in line["metrics"]
    }
    result = folder / "result.json"
    if not result.exists():
        # It was stopped before its next line: count all the steps up to there.
        return Trial(curve, min(lines[-1]["step"] + EVERY, MAX_STEPS), None)
    told = json.loads(result.read_text())
    assert told["steps"] == MAX_STEPS, "a trial that diverged"
    return Trial(curve, MAX_STEPS, told["cost"]["train_flops"] / MAX_STEPS)


def read_study(folder: Path) -> dict[str, list[Trial]]:
    """Trials by arm."""
    arms: dict[str, list[Trial]] = {}
    for place in sorted(folder.glob("*/trial_*")):
        arms.setdefault(place.parent.name, []).append(read(place))
    return arms


def replay(trials: list[Trial], order: list[int]) -> tuple[int, list[Trial]]:
    """Steps that one arm would take, one trial after another, and the trials that would end."""
    rungs = rung_steps(PRUNING, MAX_STEPS, EVERY)
    reached: dict[int, list[Mark]] = {step: [] for step in rungs}
    steps, ended = 0, []
    for i in order:
        for step in rungs:
            mark = Mark(trials[i].curve[step])
            kept = stand(mark, reached[step], PRUNING.keep).kept
            reached[step].append(mark)
            if not kept:
                steps += step
                break
        else:
            steps += MAX_STEPS
            ended.append(trials[i])
    return steps, ended


def points(trials: list[Trial]) -> list[tuple[float, ...]]:
    return [trial.final for trial in trials if trial.flops_per_step is not None]


def main() -> None:
    on, off = (read_study(Path(place)) for place in sys.argv[2:4])
    rate = {arm: trials[0].flops_per_step or 0.0 for arm, trials in off.items()}
    everything = [p for trials in off.values() for p in points(trials)]
    references = {
        "median": tuple(statistics.median(p[o] for p in everything) for o in range(2)),
        "worst": tuple(max(p[o] for p in everything) for o in range(2)),
    }
    same = all(
        trial.curve == {step: twin.curve[step] for step in trial.curve}
        for arm in on
        for trial, twin in zip(on[arm], off[arm], strict=True)
    )
    print(f"same curves as far as both were trained: {same}")
    for arm in (*off, None):
        names = [arm] if arm else list(off)
        flops = [sum(rate[n] * t.steps for n in names for t in s[n]) for s in (on, off)]
        row = f"{arm or 'all'}: FLOPs {flops[0]:.4g} of {flops[1]:.4g}, {flops[1] / flops[0]:.2f} x"
        row += f", ended {sum(len(points(on[n])) for n in names)}"
        for name, reference in references.items():
            area = [
                hypervolume([p for n in names for p in points(s[n])], reference) for s in (on, off)
            ]
            row += f"; {name} {area[0]:.5f} of {area[1]:.5f}, {area[0] / area[1] - 1:+.2%}"
        print(row)
    print(f"reference points: {references}")
    shuffled = random.Random(0)
    saved: dict[str, list[float]] = {"times less": [], **{name: [] for name in references}}
    for _ in range(ORDERS):
        steps, ended = 0.0, []
        for arm, trials in off.items():
            arm_steps, arm_ended = replay(trials, shuffled.sample(range(len(trials)), len(trials)))
            steps, ended = steps + rate[arm] * arm_steps, [*ended, *arm_ended]
        whole = sum(rate[arm] * MAX_STEPS * len(trials) for arm, trials in off.items())
        saved["times less"].append(whole / steps)
        for name, reference in references.items():
            area = hypervolume(points(ended), reference) / hypervolume(everything, reference)
            saved[name].append(area - 1)
    for name, values in saved.items():
        low, middle, high = statistics.quantiles(values, n=20)[0::9]
        print(f"{ORDERS} orders, {name}: median {middle:.4f}, 5 % to 95 % {low:.4f} to {high:.4f}")
    for name in references:
        share = sum(value >= -0.02 for value in saved[name]) / ORDERS
        print(f"{ORDERS} orders, {name}: within 2 % in {share:.1%}")


if __name__ == "__main__":
    main()
