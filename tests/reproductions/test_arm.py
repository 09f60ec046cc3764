"""Jordan & Jacobs (1994), table 1: figures of made cells by hand, and tiny descents."""

from pathlib import Path

import pytest

from hmoe.reproductions import jordan_jacobs_1994_arm as arm
from hmoe.reproductions.record import Cell, Measured


def made_cells(*, reach: int) -> list[Measured]:
    """EM has converged after 10 epochs, at 0.12 or 0.1; backprop is at both after `reach` epochs.

    At a rate of 0.3 it only gets to 0.12, and at 1.0 to neither.
    """
    cells = [
        Measured(Cell("em", seed), {"curve": [0.31, *[0.25] * 9, goal, goal], "converged": 10}, 1.0)
        for seed, goal in enumerate((0.12, 0.1))
    ]
    lowest = {"gradient_0.3": 0.12, "gradient_1.0": 0.3}
    for name in arm.EPOCHS:
        slow = [0.5] * reach + [lowest.get(name, 0.1)]
        cells += [Measured(Cell(name, seed), {"curve": slow}, 1.0) for seed in range(2)]
    return cells


def test_figures_by_hand() -> None:
    found = arm.figures(made_cells(reach=300))
    assert found["linear"].value == 0.31
    assert found["em_error"].value == pytest.approx(0.11)
    # Two runs, of two goals each: one goal is missed by both, and counts with all epochs.
    assert found["gradient_0.3_missed"].value == 2
    assert found["gradient_0.3_ratio"].value == (300 + 1500) / 2 / 10
    assert found["gradient_1.0_missed"].value == 4
    assert found["gradient_1.0_ratio"].value == 600 / 10
    # The rate that misses least counts, not one that gave up early.
    assert found["gradient_ratio"].value == found["gradient_0.5_ratio"].value == 30
    assert found["gradient_error"].value == pytest.approx(0.1)
    assert arm.ARM.verdict(found) == "reproduced"
    ratios, missed = arm.notes(found)
    assert "gradient 0.3 90.0, gradient 0.5 30.0" in ratios
    assert "gradient 0.3 2, gradient 1.0 4" in missed


def test_backprop_that_is_quick_leaves_the_shape_only() -> None:
    found = arm.figures(made_cells(reach=199))
    assert found["gradient_ratio"].value == pytest.approx(19.9)
    assert arm.ARM.verdict(found) == "in shape only"


def test_when_a_curve_is_there() -> None:
    assert arm.epochs_to([3.0, 2.0, 1.0, 0.5], 1.0) == 2
    assert arm.epochs_to([3.0], 1.0) is None
    assert arm.epochs_to([], 1.0) is None


def test_cells_of_few_seeds() -> None:
    found = arm.cells("cpu", 5)
    assert [cell.seed for cell in found if cell.arm == "em"] == [0, 1, 2, 3, 4]
    assert [cell.seed for cell in found if cell.arm == "momentum_0.1"] == [0, 1, 2]


def test_backprop_descends_and_one_that_diverges_ends() -> None:
    curve = arm.descend(0, rate=0.3, momentum=0.0, epochs=3)
    assert len(curve) == 4
    assert curve == sorted(curve, reverse=True)
    assert len(arm.descend(0, rate=1e25, momentum=0.0, epochs=20)) < 21


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    arm.draw(made_cells(reach=3), tmp_path / "figure.svg")
    assert "relative error, test rows" in (tmp_path / "figure.svg").read_text()
