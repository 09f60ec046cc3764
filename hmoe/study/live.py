"""What the terminal shows while a study runs: its standing, refreshed in place.

A pipe or a terminal that cannot be redrawn gets one line for each job that has ended, no more.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from hmoe.study.confirm import Confirmation, plan_confirmation
from hmoe.study.contract import PlannedArm
from hmoe.study.job import UNENDED, JobState
from hmoe.study.registration import kept_choice
from hmoe.study.runner import Progress
from hmoe.study.search import Search
from hmoe.study.spec import Sweep
from hmoe.study.standing import Standing, Standings, is_owned

_REFRESH_SECONDS = 2.0
_MENTIONED: tuple[JobState, ...] = ("pruned", "failed", "running")


class ProgressDisplay:
    """Shows what the runner reports: the standing, and above it a line for each job that has ended.

    Args:
        console: where it is shown.
        standings: works out the standing of what runs.
    """

    def __init__(self, console: Console, standings: Standings) -> None:
        self._console, self._standings = console, standings
        self._live: Live | None = None

    def show(self, progress: Progress) -> None:
        """Take in what the runner reports."""
        if progress.message:
            self._console.print(progress.message, highlight=False, markup=False, soft_wrap=True)
        if self._live is not None:
            self._live.update(standing_view(self._standings.of(progress.states)), refresh=True)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keep the standing on the screen."""
        if not self._console.is_interactive:
            yield
            return
        with Live(console=self._console, auto_refresh=False) as self._live:
            yield


def show_status(
    console: Console, sweep: Sweep, arms: Sequence[PlannedArm], runs: Path, *, watch: bool
) -> None:
    """Print how a study stands; with `watch` again and again, until it has ended or is stopped."""
    watcher, folder = _Watcher(sweep, arms, runs), runs / sweep.name
    last, view = watcher.look()
    redraws = watch and console.is_interactive
    with Live(view, console=console, auto_refresh=False) if redraws else nullcontext() as live:
        while watch and is_owned(folder) and watcher.expects(last):
            time.sleep(_REFRESH_SECONDS)
            states, view = watcher.look()
            if live is not None:
                live.update(view, refresh=True)
            else:
                for place in (p for p in states if states[p] != last.get(p)):
                    if states[place] not in UNENDED:
                        console.print(f"{place}: {states[place]}", highlight=False, soft_wrap=True)
            last = states
    if not redraws:
        console.print(view)


class _Watcher:
    """Looks at a study from outside: reads, and writes nothing."""

    def __init__(self, sweep: Sweep, arms: Sequence[PlannedArm], runs: Path) -> None:
        self._sweep, self._arms, self._runs = sweep, arms, runs
        self._folder = runs / sweep.name
        self._trials = Standings("trial", sweep, arms, self._folder)
        self._confirming = Standings("confirm", sweep, arms, self._folder)

    def look(self) -> tuple[dict[str, JobState], RenderableType]:
        """The state of every job, and what to show."""
        alive = is_owned(self._folder)
        search = Search(self._sweep, self._arms, self._runs, reading=True)
        states = self._true(search.states(), alive)
        parts: list[RenderableType] = [_title(self._sweep), standing_view(self._trials.of(states))]
        if self._sweep.confirm is not None and kept_choice(self._folder):
            plan = plan_confirmation(self._sweep, self._arms, self._runs)
            confirmation = Confirmation(plan, self._arms, self._folder)
            more = self._true(confirmation.states(), alive)
            parts.append(standing_view(self._confirming.of(more)))
            states |= more
        if not alive and self.expects(states):
            parts.append(f"Nothing runs. Go on with `hmoe sweep sweep={self._sweep.name}`.")
        return states, Group(*parts)

    def expects(self, states: Mapping[str, JobState]) -> bool:
        """Whether there is more to come: jobs, or a confirmation that is yet to be chosen."""
        unchosen = self._sweep.confirm is not None and not kept_choice(self._folder)
        return unchosen or not UNENDED.isdisjoint(states.values())

    def _true(self, states: Mapping[str, JobState], alive: bool) -> dict[str, JobState]:
        """What runs, runs only while the owner of the study is there."""
        return {place: self._state(place, state, alive) for place, state in states.items()}

    def _state(self, place: str, state: JobState, alive: bool) -> JobState:
        if state not in UNENDED:
            return state
        begun = state == "running" or (self._folder / place / "events.jsonl").exists()
        return "running" if alive and begun else "waiting"


def standing_view(standing: Standing) -> Group:
    """A row for each arm, what is under way, and how much is left."""
    return Group(_arms_table(standing), *_under_way(standing), _left(standing))


def _arms_table(standing: Standing) -> Table:
    """Only those states have a column in which a job is, so that 80 characters hold most tables."""
    objectives = list(dict.fromkeys(o for arm in standing.arms for o in arm.values))
    states = [s for s in _MENTIONED if any(arm.counts.get(s) for arm in standing.arms)]
    told = "best" if standing.kind == "trial" else "test mean"
    table = Table(box=box.SIMPLE, padding=(0, 1))
    table.add_column("arm", no_wrap=True)
    names = (f"{told}\n{objective.removeprefix('val/')}" for objective in objectives)
    for column in ("complete", *states, *names, "load CV\nby level"):
        table.add_column(column, justify="right", no_wrap=True)
    for arm in standing.arms:
        table.add_row(
            arm.name,
            f"{arm.counts.get('complete', 0)}/{sum(arm.counts.values())}",
            *(str(arm.counts.get(state, 0)) for state in states),
            *(f"{arm.values[o]:.4g}" if o in arm.values else "-" for o in objectives),
            "  ".join(f"{cv:.2f}" for cv in arm.loads) or "-",
        )
    return table


def _under_way(standing: Standing) -> list[str]:
    return [
        f"  {escape(place)}: step {step} of {steps}" for place, step, steps in standing.under_way
    ]


def _left(standing: Standing) -> Table:
    """A bar over the steps of all jobs, how many have ended, and the time left."""
    counts = [arm.counts for arm in standing.arms]
    total = sum(sum(own.values()) for own in counts)
    ended = total - sum(own.get("waiting", 0) + own.get("running", 0) for own in counts)
    jobs = "trials" if standing.kind == "trial" else "runs"
    bar = ProgressBar(standing.total_steps, standing.done_steps, width=30)
    words = f"{jobs} {ended}/{total}"
    if ended < total and standing.seconds_left is not None:
        words += f", about {timedelta(seconds=round(standing.seconds_left))} left"
    grid = Table.grid(padding=(0, 1))
    grid.add_row(" ", bar, f"{standing.done_steps / max(1, standing.total_steps):.0%}", words)
    return grid


def _title(sweep: Sweep) -> str:
    return f"[bold]{escape(sweep.name)}: {escape(sweep.question)}"
