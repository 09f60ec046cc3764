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
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from hmoe.training import provenance

Clock = Literal["wall", "cpu"]


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


def table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """Rows as a table for the terminal; a column is named by its key."""
    result = Table(title=title)
    for column in columns:
        justify: Literal["left", "right"] = "left" if isinstance(rows[0][column], str) else "right"
        result.add_column(column.replace("_", " "), justify=justify, overflow="fold")
    for row in rows:
        cells = [row[column] for column in columns]
        result.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells))
    return result


def save(record: Mapping[str, Any], *, suite: str, out: Path, command: str) -> Path:
    """Write the record of a suite, with the circumstances that its numbers belong to."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{suite}.json"
    about = {"command": command, "threads": torch.get_num_threads(), **provenance()}
    path.write_text(json.dumps({**record, **about}, indent=1) + "\n", encoding="utf-8")
    return path
