"""What pictures of reproductions share: the style of a paper's figures, every run a dot."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hmoe.report.paper import empty_figure, styled
from hmoe.report.style import COLOURS


@contextmanager
def picture(file: Path, panels: int, height: float) -> Iterator[list[Any]]:
    """Panels one under the other, written as SVG at the end; the same numbers make the same file.

    Args:
        file: to write.
        panels: how many.
        height: of all, in inches.
    """
    with styled():
        figure, axes = empty_figure(panels, height)
        yield axes
        figure.savefig(file, bbox_inches="tight", metadata={"Date": None})


def dots(axes: Any, x: float, values: Sequence[float], *, colour: str, sign: str = "o") -> None:
    """All values at one place side by side, and a line at their mean."""
    shift = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else [0.0]
    style = {"color": colour, "markersize": 3, "alpha": 0.6, "linestyle": ""}
    axes.plot([x + s for s in shift], values, sign, **style)
    axes.plot([x - 0.17, x + 0.17], [np.mean(values)] * 2, color=colour, linewidth=2)


def by_arms(
    file: Path,
    labels: Mapping[str, str],
    quantities: Mapping[str, Mapping[str, Sequence[float]]],
    below: str,
    *,
    log: Sequence[str] = (),
) -> None:
    """A panel a quantity: every run a dot above its arm.

    Args:
        file: to write.
        labels: arm -> what it is called below the panels.
        quantities: name -> arm -> values; arms without values have no dots.
        below: what the labels are.
        log: names of the quantities whose axis is logarithmic.
    """
    from matplotlib.ticker import LogLocator

    with picture(file, len(quantities), 2.3 * len(quantities) + 0.4) as panels:
        for axes, (name, values) in zip(panels, quantities.items(), strict=True):
            for place, arm in enumerate(labels):
                if arm in values:
                    dots(axes, place, values[arm], colour=COLOURS[place % len(COLOURS)])
            axes.set_xticks(range(len(labels)), labels.values(), fontsize=7)
            axes.set_ylabel(name)
            if name in log:
                axes.set_yscale("log")
                axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
                axes.yaxis.set_major_formatter("{x:g}")  # 0.2, not 2 x 10^-1
                axes.yaxis.set_minor_formatter("{x:g}")
        panels[-1].set_xlabel(below)
