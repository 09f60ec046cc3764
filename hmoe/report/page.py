"""Writing a report: report.html, one file that needs no other, and a short README.md beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from hmoe.files import write_atomically
from hmoe.report import numbers
from hmoe.report.answer import answer, better
from hmoe.report.circumstances import circumstances, deviations, registered, unlike
from hmoe.report.contract import contract_check
from hmoe.report.effort import effort_rows, tuned_equally
from hmoe.report.figures import curve_figure, pareto_figure
from hmoe.report.forest import forest_figure
from hmoe.report.importance import ENOUGH, cautions
from hmoe.report.loads import load_figures
from hmoe.report.paper import write_paper
from hmoe.report.search_figures import hypervolume_figure, importance_figure, timeline_figure
from hmoe.report.settled import churn_levels, declared_margin, settled_rows, unsettled
from hmoe.report.style import look_of
from hmoe.report.tables import (
    Spread,
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
from hmoe.report.verdicts import (
    confirm_runs,
    looked,
    membership,
    needed,
    pair_rows,
    tested,
    tested_metric,
)
from hmoe.tracking import Study, read_study, with_history

_TEMPLATES = Path(__file__).parent / "templates"
PAGE, README, PAPER = "report.html", "README.md", "paper"
_FIGURES = {
    "forest": forest_figure,
    "pareto": pareto_figure,
    "hypervolume": hypervolume_figure,
    "importance": importance_figure,
    "timeline": timeline_figure,
}


def write_report(runs: Path, study: str, out: Path, *, paper: bool = False) -> Path:
    """Write the report of a study into the folder `out`; returns the path of the page.

    Args:
        paper: also write figures for print, as SVG files in `out`/paper.

    Raises:
        ConfigError: there is no such study under `runs`.
    """
    record = read_study(runs, study)
    record = with_history(runs, record, [curve_key(o) for o in record.objectives])
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / README, readme(record))
    write_atomically(out / PAGE, html(record))
    if paper:
        write_paper(record, out / PAPER)
    return out / PAGE


def html(study: Study) -> str:
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
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            **_facts(study),
            # get_plotlyjs is made to stand between script tags.
            plotly=Markup(get_plotlyjs()),
            figures={name: json.loads(figure.to_json()) for name, figure in figures.items()},
            loads=loads,
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


def readme(study: Study) -> str:
    """The report in brief, as markdown."""
    text = _environment(markdown=True).get_template("README.md.j2").render(**_facts(study))
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
        "varied": varied_params(study),
        "circumstances": circumstances(study),
    }


def _environment(markdown: bool = False) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=not markdown,
        finalize=_markdown if markdown else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": numbers.number,
        "percent": numbers.percent,
        "duration": numbers.duration,
        "count": numbers.count,
        "better": better,
        "spread": _spread,
        "needed": needed,
        "p": numbers.p_value,
        "given": lambda x: f"{x:g}",
        "ended": _ended,
        "tree": lambda text: text.replace('"', "") or "none",
        "setting": _setting,
        "code": lambda text: _Code(text.replace("\n", " ")),
    }
    return environment


def _spread(spread: Spread | None) -> str:
    return numbers.plus_minus(spread.mean, spread.sd) if spread else numbers.NOTHING


def _ended(states: Mapping[str, int]) -> str:
    return ", ".join(f"{n}\u00a0{state}" for state, n in states.items()) or numbers.NOTHING


def _setting(text: str) -> str:
    """A swept setting: 0.001 as it was given, other numbers like all, anything else as it is."""
    try:
        shown = numbers.number(float(text))
    except ValueError:
        return text or numbers.NOTHING
    return shown.rstrip("0").rstrip(".") if "." in shown and "×" not in shown else shown


class _Code(str):
    """Text for an indented block of markdown, where no sign has a meaning."""


def _markdown(text: Any) -> str:
    """Names from users must neither open a tag nor end a cell of a table."""
    if isinstance(text, _Code):
        return text
    marks = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "\n": " "}
    return "".join(marks.get(c, c) for c in str(text))
