"""A made reproduction, whose cells take no time: is the mean of an arm's seeds between 1 and 3?

Its functions can be found by workers, which are fresh interpreters.
"""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hmoe.reproductions.record import (
    Cell,
    Criterion,
    Figure,
    Measured,
    Place,
    Reproduction,
    Row,
    Size,
    Values,
)


def cells(size: Size, seeds: int) -> list[Cell]:
    return [Cell("arm", seed) for seed in range(seeds)]


def measure(cell: Cell, place: Place) -> Values:
    """The seed; and a trace of having been here, beside the cell."""
    with (place.root / "visits").open("a") as file:
        file.write(f"{cell.seed}\n")
    return {"value": cell.seed}


def measure_badly(cell: Cell, place: Place) -> Values:
    if cell.seed == 2:
        raise ValueError("two is bad")
    return measure(cell, place)


def measure_unwritable(cell: Cell, place: Place) -> Values:
    return {"value": object()}


def measure_to_death(cell: Cell, place: Place) -> Values:
    if cell.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return measure(cell, place)


def measure_slowly(cell: Cell, place: Place) -> Values:
    """The first at once; the others for longer than a test lasts."""
    if cell.seed > 0:
        (place.root / "pid").write_text(str(os.getpid()))
        time.sleep(60)
    return measure(cell, place)


def figures(measured: Sequence[Measured]) -> dict[str, Figure]:
    return {"mean": Figure.over([m.values["value"] for m in measured])}


def draw(measured: Sequence[Measured], file: Path) -> None:
    file.write_text("<svg/>")


MADE = Reproduction(
    name="made",
    title="Is the mean between 1 and 3?",
    source="Nobody (1900)",
    claim="It is.",
    rows=(Row("mean", "2", "mean"),),
    criteria=(Criterion(figure="mean", says="the mean", role="claim", low=1, high=3),),
    deviations=("Made up.",),
    seeds=5,
    minutes=0,
    cells=cells,
    measure=measure,
    figures=figures,
    draw=draw,
)


def with_measure(measure: object) -> Reproduction:
    return replace(MADE, measure=measure)
