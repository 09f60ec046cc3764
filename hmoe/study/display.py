"""What a sweep shows in the terminal: its plan before, its progress, its state at any time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table

from hmoe.study.confirm import Plan
from hmoe.study.contract import PlannedArm
from hmoe.study.runner import Progress
from hmoe.study.search import Search
from hmoe.study.spec import Sweep


def plan_table(sweep: Sweep, arms: Sequence[PlannedArm]) -> Table:
    """Arms with their trees, costs (FLOPs per token), deviations, and how many trials each gets."""
    contract = sweep.contract
    title = (
        f"{sweep.question}\n{sweep.budget.trials} trials, {sweep.trials_per_arm} an arm, "
        f"{contract.match} of "
        f"'{contract.reference}' within {contract.tolerance:.0%}"
    )
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE, padding=(0, 1)
    )
    table.add_column("arm", no_wrap=True)
    table.add_column("tree")
    for column in ("steps", "params", "active", "gates", "FLOPs", "off by"):
        table.add_column(column, justify="right")
    for arm in arms:
        table.add_row(
            arm.name,
            _tree(arm.tree),
            str(arm.cfg.trainer.max_steps),
            _short(arm.cost.params),
            _short(arm.cost.active_params),
            _short(arm.cost.gate_params),
            _short(arm.cost.flops_per_token),
            f"{arm.deviation:+.2%}",
        )
    return table


def confirmation_table(sweep: Sweep, plan: Plan) -> Table:
    """What is trained again, how it fared in the search, and how long all of it will take."""
    seconds = len(plan.seeds) * sum(choice.seconds for choice in plan.choices.values())
    table = Table(
        title=f"{sweep.question}\n{len(plan.choices)} arms on seeds {plan.seeds[0]} to "
        f"{plan.seeds[-1]}, about {seconds / sweep.workers / 60:.0f} minutes",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        padding=(0, 1),
        caption="\n".join(f"not confirmed: {arm}: {why}" for arm, why in plan.left_out.items()),
        caption_justify="left",
    )
    for column in ("arm", "trial", "in the search", "settings"):
        table.add_column(column, no_wrap=column == "arm")
    for name, choice in plan.choices.items():
        drawn = " ".join(choice.drawn)
        table.add_row(name, str(choice.slot + 1), f"{choice.value:.4g}", drawn)
    return table


def _tree(text: str) -> str:
    """The tree in a word: its branching factors, or that its units have names."""
    return "named" if text.startswith("{") else text or "dense"


def _short(number: float) -> str:
    """Four digits and a unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:.0f}"


class ProgressDisplay:
    """A bar over all training steps with the time left; a line for each job that has ended.

    Args:
        console: where it is shown.
        jobs: what the jobs are called, such as "trials".
    """

    def __init__(self, console: Console, jobs: str) -> None:
        self._jobs = jobs
        self._bar = Bar(
            TextColumn("{task.fields[jobs]}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
        )
        self._task = self._bar.add_task("", total=None, jobs="starting")

    def show(self, progress: Progress) -> None:
        """Take in what the runner reports."""
        if progress.message:
            self._bar.console.print(progress.message, highlight=False, markup=False, soft_wrap=True)
        self._bar.update(
            self._task,
            total=progress.total_steps,
            completed=progress.done_steps,
            jobs=f"{self._jobs} {progress.done_jobs}/{progress.total_jobs}",
        )

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keep the bar on the screen."""
        with self._bar:
            yield


def status_table(sweep: Sweep, arms: Sequence[PlannedArm], runs: Path) -> Table:
    """Per arm how many trials have ended and how, and the best value of each objective."""
    search = Search(sweep, arms, runs)
    ended, running = search.ended(), search.running()
    table = Table(
        title=f"{sweep.name}: {sweep.question}",
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1),
    )
    table.add_column("arm", no_wrap=True)
    for column in ("planned", "complete", "pruned", "failed", "running", *sweep.objectives):
        table.add_column(column, justify="right")
    for arm in arms:
        own = [e for e in ended if e.arm == arm.name]
        best = []
        for metric, way in zip(sweep.objectives, sweep.directions, strict=True):
            values = [e.values[metric] for e in own if metric in e.values]
            pick = min if way == "minimize" else max
            best.append(f"{pick(values):.4g}" if values else "-")
        table.add_row(
            arm.name,
            str(sweep.trials_per_arm),
            *(str(sum(e.state == s for e in own)) for s in ("complete", "pruned", "failed")),
            str(sum(1 for name, _ in running if name == arm.name)),
            *best,
        )
    return table
