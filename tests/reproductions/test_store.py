"""Stored results: what a page says, and what of a changed one is found."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hmoe.errors import ConfigError
from hmoe.reproductions.cells import criteria_of
from hmoe.reproductions.page import shown
from hmoe.reproductions.record import Cell, Criterion, Figure, Measured, Reproduction
from hmoe.reproductions.store import drift, read_result, rewrite, write_result
from tests.reproductions.made import MADE

MEASURED = [Measured(Cell("arm", seed), {"value": seed}, 60.0, "c" * 40) for seed in range(5)]


def stored(folder: Path, what: Reproduction = MADE, **declared: Any) -> dict[str, Any]:
    return write_result(
        what,
        MEASURED,
        folder,
        command="hmoe reproduce made",
        size="cpu",
        minutes=2.5,
        declared={"criteria": criteria_of(MADE), "at": 0.0} | declared,
    )


def test_the_result_and_its_page_by_hand(tmp_path: Path) -> None:
    """Seeds 0 to 4: mean 2, standard deviation the root of 2.5."""
    result = stored(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert result["verdict"] == "reproduced"
    assert result["added_minutes"] == 5.0
    page = (tmp_path / "README.md").read_text()
    assert "**Verdict: reproduced.**" in page
    assert "| mean | 2 | 2.000 ± 1.581 (5) |" in page
    assert "written down 1970-01-01 00:00 UTC, before the first run" in page
    assert "| the mean | 1 to 3 | 2.000 | yes | the claim |" in page
    assert "- Made up." in page
    assert "    hmoe reproduce made\n" in page
    assert "5 cells; 5\u202fmin added up, 2\u202fmin 30\u202fs by the clock" in page
    assert "cells were measured at: cccccccccccc\n" in page
    assert "They were changed since" not in page
    assert "![Is the mean between 1 and 3?](figure.svg)" in page
    assert drift(MADE, tmp_path) == []


def test_lost_seeds_are_drift(tmp_path: Path) -> None:
    stored(tmp_path)
    found = drift(replace(MADE, cells=lambda size, seeds: MADE.cells(size, seeds + 2)), tmp_path)
    assert found == ["2 of 7 cells are missing"]


def test_criteria_are_as_old_as_in_the_result_before(tmp_path: Path) -> None:
    stored(tmp_path, at=60.0)
    assert stored(tmp_path, at=120.0)["declared_at"] == 60.0
    assert stored(tmp_path, at=30.0)["declared_at"] == 30.0
    others = stored(tmp_path, at=120.0, criteria=[])
    assert others["declared_at"] == 120.0
    (tmp_path / "result.json").write_text("{")  # damaged: "run it again" mends it
    assert stored(tmp_path, at=180.0)["declared_at"] == 180.0


def test_a_page_is_written_anew_from_the_stored_numbers(tmp_path: Path) -> None:
    stored(tmp_path)
    reworded = replace(MADE, deviations=("Made up, in other words.",))
    assert drift(reworded, tmp_path) == [f"{tmp_path / 'README.md'} is not what the result says"]
    before = (tmp_path / "result.json").read_bytes()
    rewrite(reworded, tmp_path)
    assert drift(reworded, tmp_path) == []
    assert "- Made up, in other words." in (tmp_path / "README.md").read_text()
    assert (tmp_path / "result.json").read_bytes() == before


def test_a_change_of_criteria_is_told_with_what_was_declared(tmp_path: Path) -> None:
    eased = replace(
        MADE, criteria=(Criterion(figure="mean", says="the mean", role="claim", low=-9),)
    )
    stored(tmp_path, eased)
    page = (tmp_path / "README.md").read_text()
    assert "**They were changed since: the verdict is not of what was declared.**" in page
    assert "- the mean: 1 to 3 (claim)" in page
    assert "| the mean | ≥ -9 | 2.000 | yes | the claim |" in page
    assert drift(eased, tmp_path) == []


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "result.json"
    result = json.loads(file.read_text())
    edit(result)
    file.write_text(json.dumps(result))


def test_a_changed_number_is_found(tmp_path: Path) -> None:
    stored(tmp_path)
    change(tmp_path, lambda result: result["cells"][4][2].update(value=40))
    found = drift(MADE, tmp_path)
    assert "the numbers of the cells were changed" in found
    assert "figure mean, value: stored 2.0, now 9.2" in found
    assert "verdict: stored reproduced, now not reproduced" in found


def test_a_changed_figure_verdict_or_name_is_found(tmp_path: Path) -> None:
    stored(tmp_path)
    change(tmp_path, lambda result: result["figures"]["mean"].update(value=2.1))
    assert "figure mean, value: stored 2.1, now 2.0" in drift(MADE, tmp_path)
    stored(tmp_path)
    change(tmp_path, lambda result: result.update(verdict="not reproduced"))
    assert "verdict: stored not reproduced, now reproduced" in drift(MADE, tmp_path)
    stored(tmp_path)
    change(tmp_path, lambda result: result.update(figures={}))
    assert "figure mean is only in the code" in drift(MADE, tmp_path)


def test_changed_criteria_of_the_code_are_found(tmp_path: Path) -> None:
    stored(tmp_path)
    strict = replace(
        MADE, criteria=(Criterion(figure="mean", says="the mean", role="claim", low=5),)
    )
    found = drift(strict, tmp_path)
    assert "criteria are not those of the code" in found
    assert "verdict: stored reproduced, now not reproduced" in found


def test_a_changed_page_and_a_lost_picture_are_found(tmp_path: Path) -> None:
    stored(tmp_path)
    page = tmp_path / "README.md"
    page.write_text(page.read_text().replace("2.000", "2.001"))
    assert drift(MADE, tmp_path) == [f"{page} is not what the result says"]
    page.unlink()
    assert drift(MADE, tmp_path) == [f"{page} is missing"]
    stored(tmp_path)
    (tmp_path / "figure.svg").unlink()
    assert drift(MADE, tmp_path) == [f"{tmp_path / 'figure.svg'} is missing"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "nothing stored"), ("{", "damaged"), ("[]", "no result"), ("{}", "no result")],
)
def test_a_result_that_cannot_be_read(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_result(MADE, tmp_path)


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (None, "\u2013"),
        (Figure(0.0987, 0.0123, 5), "0.099 ± 0.012 (5)"),
        (Figure(2.1, low=1.9, high=2.3), "2.100 [1.900, 2.300]"),
        (Figure(1234.5), "1,234.500"),
        (Figure(1.2e-9), "1.2e-09"),
    ],
)
def test_figures_in_words(figure: Figure | None, words: str) -> None:
    assert shown(figure, 3) == words
