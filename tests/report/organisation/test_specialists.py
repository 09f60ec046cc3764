"""Specialists, by hand."""

from dataclasses import replace

import numpy as np

from hmoe.layer import Tree
from hmoe.report.organisation.specialists import SpecialistRow, specialist_rows
from hmoe.report.organisation.view import View, views
from tests.report.organisation.records import make_record


def view_of(counts_CE: list[list[int]]) -> View:
    """A layer of web (a, b) and law, whose only label has these rows by value and expert."""
    spec = {"web": {"a": 1, "b": 1}, "law": 1}
    record = make_record(spec, rows=60)
    view = views(record)[0]
    counts = np.array(counts_CE)
    values = tuple("xyz"[: len(counts)])
    known = replace(view.layer.knowledge[0], label="topic", values=values, counts_CE=counts)
    return View(record, replace(view.layer, knowledge=(known,)))


def test_who_takes_most_of_what() -> None:
    # Experts in node order: law, web.a, web.b.
    assert Tree.from_spec({"web": {"a": 1, "b": 1}, "law": 1}).node_E == (1, 2, 3)
    rows = specialist_rows(view_of([[30, 5, 5], [10, 25, 25]]))
    assert rows == [
        # 30 ln(.75 / .4) = 18.9, 50 ln(.833 / .6) = 16.4.
        SpecialistRow("topic", "x", "departments", "law", 0.75, 0.4),
        SpecialistRow("topic", "y", "departments", "web", 50 / 60, 0.6),
        SpecialistRow("topic", "x", "experts", "law", 0.75, 0.4),
        SpecialistRow("topic", "y", "experts", "web.b", 25 / 60, 0.3),
        SpecialistRow("topic", "y", "experts", "web.a", 25 / 60, 0.3),
    ]


def test_even_work_has_no_specialist_and_a_rare_value_tells_nothing() -> None:
    assert specialist_rows(view_of([[20, 20, 20], [20, 20, 20]])) == []
    rows = specialist_rows(view_of([[20, 20, 20], [20, 20, 20], [7, 0, 0]]))
    assert "z" not in {row.value for row in rows}
