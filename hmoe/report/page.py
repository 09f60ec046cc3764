"""Writing a report: report.html, one file that needs no other, and a short README.md beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from hmoe.files import write_atomically
from hmoe.metrics import Inspection
from hmoe.report.answer import answer
from hmoe.report.chosen import narrowly_chosen
from hmoe.report.circumstances import circumstances, deviations, registered, unlike
from hmoe.report.contract import contract_check
from hmoe.report.effort import effort_rows, tuned_equally
from hmoe.report.figures import curve_figure, pareto_figure
from hmoe.report.forest import forest_figure
from hmoe.report.importance import ENOUGH, cautions
from hmoe.report.loads import load_figures
from hmoe.report.organisation import arm_chapters, arm_words
from hmoe.report.paper import write_paper
from hmoe.report.search_figures import hypervolume_figure, importance_figure, timeline_figure
from hmoe.report.settled import churn_levels, declared_margin, settled_rows, unsettled
from hmoe.report.style import look_of
from hmoe.report.tables import (
    arm_rows,
    balance_of,
    balance_rows,
    curve_key,
    end_rows,
    pareto_front,
    quality_of,
    trials,
    value,
    varied_params,
)
from hmoe.report.templating import environment
from hmoe.report.verdicts import (
    confirm_runs,
    looked,
    membership,
    pair_rows,
    tested,
    tested_metric,
)
from hmoe.tracking import Study, read_study, with_history

PAGE, README, PAPER = "report.html", "README.md", "paper"
_FIGURES = {
    "forest": forest_figure,
    "pareto": pareto_figure,
    "hypervolume": hypervolume_figure,
    "importance": importance_figure,
    "timeline": timeline_figure,
}


def write_report(
    runs: Path,
    study: str,
    out: Path,
    *,
    paper: bool = False,
    inspections: Mapping[str, Inspection] = MappingProxyType({}),
) -> Path:
    """Write the report of a study into the folder `out`; returns the path of the page.

    Args:
        inspections: of those runs that were inspected, by the id of the run.
        paper: also write figures for print, as SVG files in `out`/paper.

    Raises:
        ConfigError: there is no such study under `runs`.
    """
    record = read_study(runs, study)
    record = with_history(runs, record, [curve_key(o) for o in record.objectives])
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / README, readme(record, inspections))
    write_atomically(out / PAGE, html(record, inspections))
    if paper:
        write_paper(record, out / PAPER)
    return out / PAGE


def html(study: Study, inspections: Mapping[str, Inspection] = MappingProxyType({})) -> str:
    """The page: plotly.js once, the figures as data, every name from a user escaped."""
    quality, balance = quality_of(study), balance_of(study)
    figures: dict[str, go.Figure] = {}
    for name, draw in _FIGURES.items():
        if drawn := draw(study):
            figures[name] = drawn
    for name, objective in (("quality-curve", quality), ("balance-curve", balance)):
        if objective and (curve := curve_figure(study, objective)):
            figures[name] = curve
    settled = settled_rows(study)
    loads = []
    for i, (arm, figure) in enumerate(load_figures(study)):
        figures[f"load-{i}"] = figure
        loads.append((arm, f"load-{i}"))
    organisations = arm_chapters(study, inspections)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            **_facts(study),
            # get_plotlyjs is made to stand between script tags.
            plotly=Markup(get_plotlyjs()),
            figures={name: json.loads(figure.to_json()) for name, figure in figures.items()},
            loads=loads,
            organisations=organisations,
            later={i: each for _, chapter in organisations for i, each in chapter.figures.items()},
            balance_rows=balance_rows(study),
            settled=settled,
            churn_levels=churn_levels(settled),
            margin=declared_margin(study),
            trials=trials(study),
            confirm_runs=confirm_runs(study),
            efforts=effort_rows(study),
            tuned_equally=tuned_equally(study),
            enough=ENOUGH,
            cautions=cautions(study),
            value=value,
            tested=tested,
            tested_metric=tested_metric,
            colour=lambda arm: look_of(study, arm).colour,
        )
    )


def readme(study: Study, inspections: Mapping[str, Inspection] = MappingProxyType({})) -> str:
    """The report in brief, as markdown."""
    template = environment(markdown=True).get_template("README.md.j2")
    text = template.render(**_facts(study), organisations=arm_words(study, inspections))
    return text.rstrip() + "\n"


def _facts(study: Study) -> dict[str, Any]:
    """What page and README both tell."""
    return {
        "study": study,
        "answer": answer(study),
        "quality": quality_of(study),
        "balance": balance_of(study),
        "arms": arm_rows(study),
        "contract": contract_check(study),
        "front": pareto_front(study),
        "pairs": pair_rows(study),
        "looked": looked(study),
        "membership": membership(study),
        "unlike": unlike(study),
        "registered": registered(study),
        "deviations": deviations(study),
        "ends": end_rows(study),
        "unsettled": unsettled(study),
        "narrowly_chosen": narrowly_chosen(study),
        "varied": varied_params(study),
        "circumstances": circumstances(study),
    }
