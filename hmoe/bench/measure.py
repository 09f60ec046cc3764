"""Measure: things done in turns, compared by ratios.

Machines are shared and drift, so that seconds say little. What is compared takes turns in one
process (A B C A B C ...), and what counts is the ratio of neighbours: its median is quoted, its
extremes beside it. Two clocks run: the wall's, and the processor's over all threads of the process,
which does not see the work of others but counts threads that wait spinning.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from hmoe.training import provenance

Clock = Literal["wall", "cpu"]
AIM_COLUMNS = ("name", "measured", "aim", "reached")


@dataclass(frozen=True)
class Timing:
    """Seconds of every measured turn, by both clocks."""

    wall_s: list[float]
    cpu_s: list[float]

    def seconds(self, clock: Clock) -> float:
        """The median turn."""
        return statistics.median(getattr(self, f"{clock}_s"))

    def over(self, other: "Timing", clock: Clock) -> list[float]:
        """Ratios of the seconds of this to those of another, turn by turn."""
        mine, theirs = getattr(self, f"{clock}_s"), getattr(other, f"{clock}_s")
        return [a / b for a, b in zip(mine, theirs, strict=True)]


def in_turns(
    runs: Mapping[str, Callable[[], object]], *, rounds: int, title: str, device: str = "cpu"
) -> dict[str, Timing]:
    """Run each once unmeasured (caches, threads, page faults), then all of them `rounds` times.

    Args:
        runs: what takes turns, by name.
        rounds: measured turns of each.
        title: what the progress bar calls it.
        device: work on "cuda" is waited for before a clock is read.
    """
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    timings: dict[str, Timing] = {name: Timing([], []) for name in runs}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=(rounds + 1) * len(runs))
        for turn in range(rounds + 1):
            for name, run in runs.items():
                wait()
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                wait()
                if turn:
                    timings[name].wall_s.append(time.perf_counter() - wall)
                    timings[name].cpu_s.append(time.process_time() - cpu)
                progress.advance(task)
    return timings


@dataclass(frozen=True)
class Aim:
    """A number that a suite is to reach.

    Attributes:
        name: what is measured, and where.
        measured: a median; None where it could not be measured.
        bound: the aim itself.
        sense: on which side of the bound it is reached.
        unmeasured: why there is no number.
    """

    name: str
    measured: float | None
    bound: float
    sense: Literal["at most", "at least"]
    unmeasured: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether it is reached; None where nothing was measured."""
        if self.measured is None:
            return None
        return (
            self.measured <= self.bound if self.sense == "at most" else self.measured >= self.bound
        )

    def row(self) -> dict[str, Any]:
        """A row of the table of aims, and of its record."""
        reached = "not measured" if self.reached is None else self.reached
        return {
            "name": self.name,
            "measured": self.unmeasured if self.measured is None else self.measured,
            "aim": f"{self.sense} {self.bound:g}",
            "reached": reached,
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes."""
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
    }


def wide_console() -> Console:
    """Standard output; wide enough for a table where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """Rows as a table for the terminal; a column is named by its key."""
    result = Table(title=title)
    for column in columns:
        justify: Literal["left", "right"] = "left" if isinstance(rows[0][column], str) else "right"
        result.add_column(column.replace("_", " "), justify=justify, overflow="fold")
    for row in rows:
        result.add_row(*(_cell(row[column]) for column in columns))
    return result


def markdown(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The same table for a Markdown page, its title above."""
    sides = [("--" if isinstance(rows[0][column], str) else "--:") for column in columns]
    heads = [column.replace("_", " ") for column in columns]
    lines = [heads, sides, *([_cell(row[column]) for column in columns] for row in rows)]
    return f"**{title}**\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def save_page(
    path: Path,
    command: str,
    tables: Sequence[tuple[str, Sequence[Mapping[str, Any]], Sequence[str]]],
) -> None:
    """Write tables, each with its title and columns, as a Markdown page."""
    page = f"`{command}`\n\n" + "\n".join(markdown(*parts) for parts in tables)
    path.write_text(page, encoding="utf-8")


def _cell(value: Any) -> str:
    """A number, a spread, a yes or no, a text, or a dash for what there is not."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return f"{value['median']:.3f} ({value['lowest']:.2f} to {value['highest']:.2f})"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


# Once: the file of one suite would make the checkout of the next one dirty.
_at_the_start = cache(provenance)


def save(record: Mapping[str, Any], *, suite: str, out: Path, command: str) -> Path:
    """Write the record of a suite, with the circumstances that its numbers belong to."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{suite}.json"
    about = {"command": command, "threads": torch.get_num_threads(), **_at_the_start()}
    path.write_text(json.dumps({**record, **about}, indent=1) + "\n", encoding="utf-8")
    return path
