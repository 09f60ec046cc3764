"""Writing the organisation of a run: organisation.html, one file that needs no other, a short
README.md beside it, and figures for print."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from hmoe.errors import ConfigError
from hmoe.files import write_atomically
from hmoe.metrics import Inspection
from hmoe.report.numbers import duration, number
from hmoe.report.organisation.chapter import beside, organisation_chapter
from hmoe.report.organisation.prints import write_prints
from hmoe.report.organisation.tables import left_out, same_organisation
from hmoe.report.organisation.view import views
from hmoe.report.templating import environment

PAGE, README, PAPER = "organisation.html", "README.md", "paper"


def write_organisation(inspections: Sequence[Inspection], out: Path, paper: bool) -> Path:
    """Write page and README of runs of one arm into `out`; returns the path of the page.

    Args:
        inspections: of one run, or of several seeds of one arm.
        paper: also write figures for print, as SVG files in `out`/paper.

    Raises:
        ConfigError: there is no inspection, or none with a mixture layer.
    """
    facts = _facts(inspections)
    out.mkdir(parents=True, exist_ok=True)
    text = environment(markdown=True).get_template("organisation.README.md.j2").render(**facts)
    write_atomically(out / README, text.rstrip() + "\n")
    write_atomically(out / PAGE, _html(facts))
    if paper:
        write_prints(views(facts["inspection"]), out / PAPER)
    return out / PAGE


def organisation_page(inspections: Sequence[Inspection]) -> str:
    """The page: a chapter a layer, the one that knows most of a label first and open."""
    return _html(_facts(inspections))


def _html(facts: dict[str, Any]) -> str:
    later = {i: figure for each in facts["chapters"] for i, figure in each.figures.items()}
    template = environment().get_template("organisation.html.j2")
    # get_plotlyjs is made to stand between script tags.
    return template.render(**facts, plotly=Markup(get_plotlyjs()), later=later)


def _facts(inspections: Sequence[Inspection]) -> dict[str, Any]:
    """What page and README both tell."""
    if not inspections:
        raise ConfigError("inspections = []: expected the inspection of a run, or of several.")
    same = same_organisation(inspections)
    if not same[0].layers:
        raise ConfigError(f"{same[0].run}: has no mixture layer, so there is nothing to draw.")
    chapters = [
        organisation_chapter(beside(view, same[1:]), f"layer{place}")
        for place, view in enumerate(views(same[0]))
    ]
    return {
        "inspection": same[0],
        "chapters": chapters,
        "circumstances": _circumstances(same, left_out(inspections, same)),
    }


def _circumstances(same: Sequence[Inspection], others: str) -> list[tuple[str, str]]:
    first = same[0]
    rows = [
        ("tree", str(first.tree)),
        ("trained", f"{number(first.step)} steps, seed {first.seed}"),
        ("inspected on", f"{number(first.num_tokens)} tokens of {first.split} ({first.tokens})"),
        ("loss on them", number(first.loss)),
        ("inspection took", duration(first.seconds)),
    ]
    beside = ", ".join(each.run for each in same[1:])
    rows += [("tables also over", beside)] if beside else []
    return [*rows, ("left out", others)] if others else rows
