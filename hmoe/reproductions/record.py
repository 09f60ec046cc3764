"""What a reproduction is: a published claim, criteria written before the run, cells to measure.

A cell is one arm under one seed. `measure` does the work of a cell and returns its numbers; all
else, figures, criteria and verdict, is worked out of the stored numbers of all cells, so that it
can be checked again without running anything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np

Role = Literal["claim", "shape", "aside"]
Size = Literal["cpu", "gpu"]
Verdict = Literal["reproduced", "in shape only", "not reproduced"]
Values = Mapping[str, Any]
"""What a cell measured: numbers, and lists of numbers."""


@dataclass(frozen=True)
class Cell:
    """One arm under one seed; many small runs that are worked out together may share a cell."""

    arm: str
    seed: int

    @property
    def place(self) -> str:
        """Its folder below that of the reproduction."""
        return f"{self.arm}/seed_{self.seed}"


@dataclass(frozen=True)
class Place:
    """Where a cell is measured.

    Attributes:
        root: the folder whose folders are the known sets, as `hmoe fetch` fills it.
        folder: what is the cell's own; a run in it goes on where it was.
        size: "cpu", what two cores do in minutes, or "gpu", as near the published size as one goes.
    """

    root: Path
    folder: Path
    size: Size


@dataclass(frozen=True)
class Measured:
    """What came of a cell, the seconds it took, and the commit of the code that measured it."""

    cell: Cell
    values: Values
    seconds: float
    commit: str | None = None


def by_arm(measured: Sequence[Measured], key: str) -> dict[str, list[Any]]:
    """The values of every arm that has them, in the order of its seeds."""
    found: dict[str, list[Any]] = {}
    for m in sorted(measured, key=lambda m: m.cell.seed):
        if key in m.values:
            found.setdefault(m.cell.arm, []).append(m.values[key])
    return found


@dataclass(frozen=True)
class Figure:
    """A number that a reader looks at.

    Attributes:
        value: the number.
        sd: its standard deviation over seeds, where it is a mean.
        n: how many seeds.
        low, high: its interval, 95 % unless the reproduction says otherwise.
    """

    value: float
    sd: float | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def over(cls, values: Sequence[float]) -> "Figure":
        """Mean and standard deviation (n - 1) of some runs."""
        array = np.asarray(values, dtype=float)
        sd = float(array.std(ddof=1)) if len(array) > 1 else None
        return cls(float(array.mean()), sd, len(array))


Figures = Mapping[str, Figure]


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """What must hold, told before the run: low <= figure <= high.

    Attributes:
        figure: its name among the figures; one that is missing or no number fails.
        says: the same in words.
        role: all of "claim" and "shape" must hold to be reproduced, those of "shape", of which
            there must be one, to be so in shape; an "aside" is told and decides nothing.
    """

    figure: str
    says: str
    role: Role
    low: float = -inf
    high: float = inf

    def __post_init__(self) -> None:
        assert self.low > -inf or self.high < inf, f"{self.figure}: a criterion that cannot fail"

    def holds(self, figures: Figures) -> bool:
        """Whether the criterion is met."""
        figure = figures.get(self.figure)
        return figure is not None and self.low <= figure.value <= self.high


@dataclass(frozen=True)
class Row:
    """A line of the table: what was published, and the name of our figure beside it."""

    label: str
    published: str
    figure: str
    digits: int = 3


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A published result and how hmoe asks whether it holds.

    Attributes:
        name: as in `hmoe reproduce <name>`.
        title: the question, in a line.
        source: authors (year), title, where; and the place of the figures in it.
        claim: what was claimed.
        rows: published figures, and which of ours stands beside each.
        criteria: what must hold.
        deviations: where we differ from what was published, and what we had to choose.
        sets: names of the known sets that are read.
        seeds: seeds of an arm.
        minutes: on two cores.
        gpu: whether its cells have a size of their own for a GPU.
        cells: (size, seeds) -> all cells.
        measure: (cell, place) -> its numbers. In a process of its own, with one thread.
        figures: all cells -> figures. Pure.
        draw: (all cells, file) draws a picture, SVG.
        notes: figures -> what else a reader must know, worked out of the figures.
    """

    name: str
    title: str
    source: str
    claim: str
    rows: Sequence[Row]
    criteria: Sequence[Criterion]
    deviations: Sequence[str]
    seeds: int
    minutes: float
    cells: Callable[[Size, int], Sequence[Cell]]
    measure: Callable[[Cell, Place], Values]
    figures: Callable[[Sequence[Measured]], dict[str, Figure]]
    draw: Callable[[Sequence[Measured], Path], None]
    sets: Sequence[str] = ()
    gpu: bool = False
    notes: Callable[[Figures], Sequence[str]] = field(default=lambda figures: ())

    def __post_init__(self) -> None:
        assert any(c.role == "claim" for c in self.criteria), f"{self.name}: nothing is claimed"

    def verdict(self, figures: Figures) -> Verdict:
        """What the criteria make of the figures."""
        claim, shape = (
            [c.holds(figures) for c in self.criteria if c.role == role]
            for role in ("claim", "shape")
        )
        if all(claim) and all(shape):
            return "reproduced"
        # Without a criterion of shape nothing is left to hold once the claim has failed.
        return "in shape only" if shape and all(shape) else "not reproduced"
