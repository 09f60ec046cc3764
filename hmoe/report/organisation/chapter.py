"""The chapter of one layer: its paragraph, tables and figures, for its own page or a study's.

`organisation_chapter` takes one layer of one run or of several runs of one arm. Figures show the
run that stands first, tables and agreement are over all.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from hmoe.metrics import Inspection
from hmoe.report.numbers import number
from hmoe.report.organisation.bars import (
    decomposition_figure,
    information_figure,
    masking_figure,
    policies_figure,
    together_figure,
)
from hmoe.report.organisation.chart import chart_figure
from hmoe.report.organisation.flow import rings_figure, streams_figure
from hmoe.report.organisation.matrix import matrix_figure, seeds_figure
from hmoe.report.organisation.moments import loads_figure, panels_figure, settling_figure
from hmoe.report.organisation.specialists import SpecialistRow, specialist_rows
from hmoe.report.organisation.tables import (
    AgreementRow,
    KnowledgeRow,
    LevelRow,
    agreement_rows,
    knowledge_rows,
    left_out,
    level_rows,
    same_organisation,
)
from hmoe.report.organisation.view import View, views
from hmoe.report.organisation.words import describe
from hmoe.report.tables import arms
from hmoe.tracking import Study

Draw = Callable[[View], go.Figure | None]


@dataclass(frozen=True)
class Picture:
    """A figure of a chapter: its place in the page, heading, and what is to be seen."""

    id: str
    title: str
    note: str


@dataclass(frozen=True)
class Chapter:
    """What the templates show of a layer.

    Attributes:
        layer: its name.
        inspection: the run of the figures.
        runs: how many runs the tables are over.
        left_out: which runs of the arm they are not over, and why; "" for none.
        words: the paragraph.
        levels, knowledge, agreement, specialists: the tables.
        pictures: the figures in their order.
        figures: id -> figure as data for plotly.
    """

    layer: str
    inspection: Inspection
    runs: int
    left_out: str
    words: str
    levels: Sequence[LevelRow]
    knowledge: Sequence[KnowledgeRow]
    agreement: Sequence[AgreementRow]
    specialists: Sequence[SpecialistRow]
    pictures: Sequence[Picture]
    figures: dict[str, Any]


def organisation_chapter(same: Sequence[View], prefix: str, others: str = "") -> Chapter:
    """The chapter of one layer of runs with the same tree, asked about the same tokens.

    Args:
        same: the layer in each run, that of the figures first.
        prefix: with which ids of figures begin.
        others: which runs are left out, as in `Chapter`.
    """
    first, pictures, figures = same[0], [], {}
    for i, (title, note, draw) in enumerate(_drawings(same)):
        figure = draw(first)
        if figure is not None:
            pictures.append(Picture(f"{prefix}-{i}", title, note))
            figures[f"{prefix}-{i}"] = json.loads(figure.to_json())
    return Chapter(
        first.layer.name,
        first.inspection,
        len(same),
        others,
        describe(first),
        level_rows(same),
        knowledge_rows(same),
        agreement_rows(same),
        specialist_rows(first),
        pictures,
        figures,
    )


def arm_chapters(study: Study, inspections: Mapping[str, Inspection]) -> list[tuple[str, Chapter]]:
    """Per arm the chapter of its best informed layer, from the inspections by run id."""
    told = enumerate(_arm_views(study, inspections))
    return [
        (arm, organisation_chapter(same, f"arm{place}", others))
        for place, (arm, same, others) in told
    ]


def arm_words(study: Study, inspections: Mapping[str, Inspection]) -> list[tuple[str, View, str]]:
    """Per arm the layer of which its chapter is, and the paragraph about it."""
    return [(arm, same[0], describe(same[0])) for arm, same, _ in _arm_views(study, inspections)]


def _arm_views(
    study: Study, inspections: Mapping[str, Inspection]
) -> list[tuple[str, Sequence[View], str]]:
    """Per arm its best informed layer, over its runs, and which of them are left out.

    Confirming runs count where any was inspected, else the trials. The first is of the run with the
    median loss, the others of those that have its tree and its tokens. An arm without mixture
    layers has none.
    """
    views_of = []
    for arm in arms(study):
        own = [run for run in study.runs if run.arm == arm and run.id in inspections]
        confirmed = [run for run in own if run.kind == "confirm"]
        found = [inspections[run.id] for run in confirmed or own]
        layered = [each for each in found if each.layers]
        if layered:
            same = same_organisation(layered)
            told = left_out(layered, same)
            views_of.append((arm, beside(views(same[0])[0], same[1:]), told))
    return views_of


def beside(view: View, others: Sequence[Inspection]) -> list[View]:
    """A layer, and the layer of that name of other runs."""
    found = (v for each in others for v in views(each) if v.layer.name == view.layer.name)
    return [view, *found]


def _drawings(same: Sequence[View]) -> list[tuple[str, str, Draw]]:
    """All figures of a layer in their order: heading, what is to be seen, and who draws it."""
    view, known = same[0], same[0].best_known
    history = view.layer.history
    drawings: list[tuple[str, str, Draw]] = [
        (
            "Organisation chart",
            "Colour is a node's load beside its even share, the width of a line the rows that take "
            "it; dark nodes are idle. A level with many nodes is a strip of cells in their order.",
            chart_figure,
        )
    ]
    if known is not None:
        drawings += [
            (
                f"From {known.label} to units",
                "Rows by value and the nodes that they pass; at most eight a stage.",
                lambda v: streams_figure(v, known),
            ),
            (
                f"Who works on what: {known.label}",
                "Rows of a value at a node, over what they would be if the two had nothing to do "
                "with each other; dark is never. Similar rows and columns are neighbours.",
                lambda v: matrix_figure(v, known),
            ),
        ]
        if len(same) > 1:
            drawings.append(
                (
                    "The same over seeds",
                    "Nodes of one column have the most similar profiles of all one-to-one "
                    "assignments to the first run.",
                    lambda _: seeds_figure(same, known),
                )
            )
    drawings += [
        (
            f"At which level {each.label} is known",
            "Bars of the left panel add up to what the choice of experts tells; chance is the mean "
            "over permutations of the labels of whole rows of the data, and p the share of them "
            "that tell as much on any level of any label and layer. AMI is adjusted as if tokens "
            "were independent, so that it flatters where those of a row hang together.",
            lambda v, each=each: information_figure(v, each),
        )
        for each in view.layer.knowledge
    ]
    drawings.append(
        (
            "At which level the load is uneven",
            "Each panel adds up to the number in its title.",
            decomposition_figure,
        )
    )
    if view.tree.num_levels > 1:
        drawings.append(("Load down the tree", "An arc is a node's share of rows.", rings_figure))
    if history is not None and len(history.step_S) > 1:
        drawings += [
            (
                "The organisation over the training",
                "One row a level, experts from left to right as in the chart.",
                lambda v: panels_figure(v, history),
            ),
            (
                "Load over the training",
                "Load of each node beside its even share; below, how far the busiest one exceeds "
                "it.",
                lambda v: loads_figure(v, history),
            ),
            (
                "What settles first",
                "Entropy is over its largest value.",
                lambda v: settling_figure(v, history),
            ),
        ]
    return [
        *drawings,
        ("Who is missed", "Rise of the loss where a node may not be chosen.", masking_figure),
        (
            "Search policies",
            "Beside the exact joint choice of experts, on "
            f"{number(view.inspection.num_tried)} of the tokens; the dashed line is the loss on "
            "them as the run searches.",
            policies_figure,
        ),
        ("Who serves the same tokens", "Share of a node's tokens.", together_figure),
    ]
