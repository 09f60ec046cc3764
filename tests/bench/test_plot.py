"""Plots are SVG files that need nothing else, and equal numbers give equal files."""

from pathlib import Path
from xml.etree import ElementTree

from hmoe.bench.plot import Mark, Panel, plot_lines, plot_panels

PANELS = [
    Panel("E=4", [Mark("ours", 1.0, 0.9, 1.2, "us"), Mark("<theirs>", 30.0, 20.0, 40.0, "them")]),
    Panel("E=8", [Mark("ours", 1.1, 1.0, 1.2, "us")], aim=1.1),
    Panel("E=16", [Mark("ours", 1.2, 1.2, 1.2, "us")]),
]


def check(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    assert root.tag.endswith("svg")
    text = path.read_text()
    # Names of vocabularies and of the program are no places to load from.
    references = [part.split('"')[0] for part in text.split('href="')[1:]]
    assert all(reference.startswith("#") for reference in references)


def test_panels(tmp_path: Path) -> None:
    first = plot_panels(PANELS, tmp_path / "a" / "1.svg", title="t", x_label="x")
    second = plot_panels(PANELS, tmp_path / "2.svg", title="t", x_label="x")
    check(first)
    assert first.read_bytes() == second.read_bytes()
    other = [*PANELS[:2], Panel("E=16", [Mark("ours", 1.3, 1.2, 1.4, "us")])]
    third = plot_panels(other, tmp_path / "3.svg", title="t", x_label="x")
    assert third.read_bytes() != first.read_bytes()


def test_lines(tmp_path: Path) -> None:
    series = {"flat": {256: [1, 2, 3], 4096: [20, 21]}, "tree": {256: [3], 4096: [5]}}
    check(plot_lines(series, tmp_path / "1.svg", title="t", x_label="x", y_label="y"))
