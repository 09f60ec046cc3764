"""Jordan & Jacobs (1994), figure 6: figures of made cells by hand, and a cell of one epoch."""

from pathlib import Path

import pytest

from hmoe.reproductions import jordan_jacobs_1994_trees as trees
from hmoe.reproductions.record import Cell, Figure, Measured, Place

# Noise of mean 0, the same for no two arms.
NOISE = (0.001, -0.001, 0.002, -0.002, 0.0, 0.0)
LEAST = {
    "small/flat_weak": 0.13,
    "small/flat_one": 0.1,
    "small/flat_full": 0.1,
    "small/grid_full": 0.1,
    "small/tree_weak": 0.1,
    "small/tree_full": 0.1,
    "large/flat_full": 0.07,
    "large/grid_full": 0.07,
    "large/tree_full": 0.07,
}


def made_cells(**changes: float) -> list[Measured]:
    cells = []
    for place, (arm, least) in enumerate({**LEAST, **changes}.items()):
        for seed in range(len(NOISE)):
            error = least + NOISE[(seed + place) % len(NOISE)]
            values = {"curve": [0.3, error, error + 0.01], "effective": 12.0}
            cells.append(Measured(Cell(arm, seed), values, 1.0))
    return cells


def test_figures_by_hand() -> None:
    found = trees.figures(made_cells())
    assert found["small/flat_weak"].value == pytest.approx(0.13)
    assert found["weak_ratio"].value == pytest.approx(1.3, rel=1e-3)
    assert found["weak_ratio"].low == found["weak_ratio_low"].value
    assert 1.25 < found["weak_ratio_low"].value < 1.3
    assert found["small_gap"].value == pytest.approx(0, abs=1e-9)
    assert found["small_equivalence_p"].value < 1e-3
    assert trees.TREES.verdict(found) == "reproduced"
    assert "flat and tree are equivalent within 0.015" in trees.notes(found)[0]


def test_a_flat_mixture_that_stays_worse_is_not_what_was_claimed() -> None:
    found = trees.figures(made_cells(**{"small/flat_full": 0.13}))
    assert found["small_gap"].value == pytest.approx(0.03)
    assert trees.TREES.verdict(found) == "not reproduced"
    assert "flat is worse" in trees.notes(found)[0]


def test_a_flat_mixture_that_is_better_leaves_the_shape() -> None:
    found = trees.figures(made_cells(**{"small/flat_full": 0.08}))
    assert found["small_gap"].value == pytest.approx(-0.02)
    assert trees.TREES.verdict(found) == "in shape only"
    assert "flat is better" in trees.notes(found)[0]


def test_cells_are_seed_by_seed_so_that_fewer_seeds_are_a_part() -> None:
    whole, part = trees.cells("cpu", 15), trees.cells("cpu", 10)
    assert set(part) <= set(whole)
    assert whole[: len(part)] != part or len(part) == len(whole)
    assert sum(cell.arm in trees.ASIDE for cell in whole) == 3 * len(trees.ASIDE)


def test_a_cell_of_one_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trees, "EPOCHS", 1)
    one, bound = (
        trees.measure(Cell(f"large/tree_{fit}", 0), Place(tmp_path, tmp_path, "cpu"))
        for fit in ("one", "weak")
    )
    # Before the first step all arms are the linear model; then they are not the same.
    assert one["curve"][0] == bound["curve"][0] == pytest.approx(0.308, abs=0.002)
    assert one["curve"][1] < one["curve"][0]
    assert one["curve"][1] == bound["curve"][1]  # the experts' fit of the first step
    assert 1 < one["effective"] <= 16


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    trees.draw(made_cells(), tmp_path / "figure.svg")
    assert "2×2×2×2, 10 steps, weights 0.1" in (tmp_path / "figure.svg").read_text()
    assert isinstance(trees.figures(made_cells())["small_gap"], Figure)
