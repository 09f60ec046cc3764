"""How far a study is: of every arm the jobs by state, its best point, the work and the time left.

Worked out from the states of the jobs and the files of their runs, so that looking on disturbs
nobody. Seconds a step are those of the arm's complete runs, else of those under way.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from hmoe.study.contract import PlannedArm
from hmoe.study.job import JobState
from hmoe.study.sections import turned
from hmoe.study.spec import Sweep

_TAIL_BYTES = 65536  # of an event log: a line and more


@dataclass(frozen=True)
class ArmStanding:
    """One arm.

    Attributes:
        name: of the arm.
        counts: how many of its jobs are in each state.
        values: by objective, of its best trial or as the mean of the runs that confirm it.
        loads: of the same, the coefficient of variation of the load at each level, the top first.
    """

    name: str
    counts: Mapping[JobState, int]
    values: Mapping[str, float]
    loads: Sequence[float]


@dataclass(frozen=True)
class Standing:
    """How far the trials of a study are, or the runs that confirm it.

    Attributes:
        kind: which of the two.
        arms: those that take part.
        under_way: (run folder below that of the study, steps done, steps) of every running job.
        done_steps, total_steps: of all jobs; one that has ended counts whole.
        seconds_left: None while no run tells how long a step takes.
    """

    kind: Literal["trial", "confirm"]
    arms: Sequence[ArmStanding]
    under_way: Sequence[tuple[str, int, int]]
    done_steps: int
    total_steps: int
    seconds_left: float | None


class Standings:
    """Works out standings again and again; reads the result of a run once, for it never changes.

    Args:
        kind: trials or the runs that confirm.
        sweep: the study.
        arms: its arms, matched.
        folder: that of the study.
    """

    def __init__(
        self,
        kind: Literal["trial", "confirm"],
        sweep: Sweep,
        arms: Sequence[PlannedArm],
        folder: Path,
    ) -> None:
        self._kind, self._sweep, self._folder = kind, sweep, folder
        self._arms = arms
        self._results: dict[str, Any] = {}

    def of(self, states: Mapping[str, JobState]) -> Standing:
        """The standing by the state of every planned job; a job is named by its run folder."""
        found, under_way, pace = [], [], {}
        done = total = 0
        left: Counter[str] = Counter()
        for arm in self._arms:
            own = {place: state for place, state in states.items() if arm_of(place) == arm.name}
            if not own:
                continue
            steps = arm.cfg.trainer.max_steps
            results = [self._result(place) for place, s in own.items() if s == "complete"]
            running = {p: steps_done(self._folder / p) for p, s in own.items() if s == "running"}
            under_way += [(place, step, steps) for place, step in running.items()]
            ended = sum(state not in ("waiting", "running") for state in own.values())
            arm_done = ended * steps + sum(running.values())
            done, total = done + arm_done, total + len(own) * steps
            left[arm.name] = len(own) * steps - arm_done
            paces = [result["cost"]["seconds"] / steps for result in results]
            paces = paces or [p for place in running if (p := _pace(self._folder / place))]
            if paces:
                pace[arm.name] = fmean(paces)
            values, loads = self._point(arm, results)
            found.append(ArmStanding(arm.name, Counter(own.values()), values, loads))
        return Standing(self._kind, found, under_way, done, total, self._seconds_left(left, pace))

    def _point(
        self, arm: PlannedArm, results: Sequence[Any]
    ) -> tuple[dict[str, float], list[float]]:
        """Values and loads of the best trial within the bounds, or means of what confirms."""
        split, metrics = "val", [result["metrics"] for result in results]
        if self._kind == "confirm":
            split = "test"
        else:
            first, excess = arm.objectives[0], self._sweep.search.excess
            whole = [m for m in metrics if m.keys() >= set(arm.objectives)]
            within = [m for m in whole if all(x <= 0 for x in excess(m).values())]
            metrics = [min(within, key=lambda m: turned(first, m[first]))] if within else []
        if not metrics:
            return {}, []
        names = {o: f"{split}/{o.removeprefix('val/')}" for o in arm.objectives}
        names |= {o: o for o, name in names.items() if name not in metrics[0]}
        values = {o: fmean(m[name] for m in metrics) for o, name in names.items()}
        prefix = f"{split}/load/cv/level_"
        levels = sorted((k for k in metrics[0] if k.startswith(prefix)), key=_number)
        return values, [fmean(m[level] for m in metrics) for level in levels]

    def _seconds_left(self, left: Mapping[str, int], pace: Mapping[str, float]) -> float | None:
        """For arms of which nothing is known yet, a step takes as long as for the others."""
        if not pace:
            return None
        other = fmean(pace.values())
        work = sum(steps * pace.get(name, other) for name, steps in left.items())
        return work / self._sweep.workers

    def _result(self, place: str) -> Any:
        if place not in self._results:
            text = (self._folder / place / "result.json").read_text(encoding="utf-8")
            self._results[place] = json.loads(text)
        return self._results[place]


def arm_of(place: str) -> str:
    """The arm of a run folder below that of the study."""
    return Path(place).parent.name


def steps_done(folder: Path) -> int:
    """Steps of a run by the last line of its event log."""
    try:
        with (folder / "events.jsonl").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return int(json.loads(file.read().splitlines()[-1])["step"])
    except (OSError, ValueError, IndexError):
        return 0


def is_owned(folder: Path) -> bool:
    """Whether the process that last held the folder of a study is there still."""
    try:
        os.kill(int((folder / "owner").read_text()), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _pace(folder: Path) -> float | None:
    """Seconds a step of a run under way, by the times of its first and its last events."""
    try:
        lines = (folder / "events.jsonl").read_bytes().splitlines()
        first, last = json.loads(lines[0]), json.loads(lines[-1])
        return float((last["time"] - first["time"]) / (last["step"] - first["step"]))
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        return None


def _number(level: str) -> int:
    return int(level.rpartition("_")[2])
