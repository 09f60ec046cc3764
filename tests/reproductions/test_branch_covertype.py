"""BRANCH on Covertype: every arm runs on made rows; who works on what, figures and verdict."""

from pathlib import Path

import pytest

from hmoe.reproductions import branch_covertype as covertype
from hmoe.reproductions.record import Cell, Measured, Place
from tests.made import made_sets, write_set
from tests.made.tables import BLOCKS

SMALL = (
    *(f"data.blocks={list(BLOCKS)}", "data.batch_size=8", "trainer.max_steps=1"),
    *("trainer.val_every=1", "optim.warmup_steps=0", "trainer.log_every=1"),
)


@pytest.mark.parametrize("arm", covertype.ARMS)
def test_an_arm_is_measured(arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covertype, "_COMMON", (*covertype._COMMON, *SMALL))
    write_set("covtype20k", tmp_path)
    with made_sets():
        values = covertype.measure(Cell(arm, 3), Place(tmp_path, tmp_path / "cell", "cpu"))
    assert values["loss"] > 0
    assert 0 <= values["accuracy"] <= 1
    # Four different experts of sixteen: three pairs of siblings and cousins at the nearest.
    assert 0.4 < values["distance"] <= 1
    assert 0 <= values["cv"] <= 3**0.5, "four experts with everything is the most"


def measured(loss: list[float], cv: float = 0.2, distance: float = 0.715) -> list[Measured]:
    """The tree with the losses, flat arms around 0.5 of which the bias is the best."""
    found = []
    for seed, value in enumerate(loss):
        for arm in covertype.ARMS:
            tree = arm == "branch"
            base = {"branch": value, "switch": 0.51, "bias": 0.5, "hash": 0.6}[arm]
            values = {
                **{"loss": base + (0 if tree else 0.001 * (-1) ** seed), "accuracy": 0.8},
                **{"test_loss": 1.0, "cv": cv if tree else 0.05, "dead": 0.0},
                **{"distance": distance if tree else 0.82, "active_params": 70_000.0},
            }
            found.append(Measured(Cell(arm, seed), values, 1.0))
    return found


SAME = [0.5 + 0.001 * (-1) ** seed for seed in range(5)]


def test_an_equal_tree_is_in_shape_as_long_as_the_loss_is_not_the_published_one() -> None:
    figures = covertype.figures(measured(SAME))
    assert figures["best_flat_loss"].value == pytest.approx(figures["bias_loss"].value)
    assert figures["branch_gap"].value == pytest.approx(0.0, abs=1e-9)
    assert figures["flat_distance"].value == pytest.approx(0.82)
    assert covertype.REPRODUCTION.verdict(figures) == "in shape only"
    assert "equivalent to it" in covertype._notes(figures)[0]


def test_seeds_that_scatter_leave_it_undecided() -> None:
    scattered = [0.48, 0.52, 0.47, 0.53, 0.5]
    figures = covertype.figures(measured(scattered))
    assert covertype.REPRODUCTION.verdict(figures) == "not reproduced"
    assert "undecided" in covertype._notes(figures)[0]


@pytest.mark.parametrize(
    "changes", [{"cv": 0.4}, {"distance": 0.8}, {"loss": [value + 0.02 for value in SAME]}]
)
def test_an_uneven_a_scattered_and_a_worse_tree_are_not_reproduced(changes: dict) -> None:
    figures = covertype.figures(measured(**({"loss": SAME} | changes)))
    assert covertype.REPRODUCTION.verdict(figures) == "not reproduced"
    worse = "worse by more than the margin" in covertype._notes(figures)[0]
    assert worse == ("loss" in changes)


def test_a_tree_that_is_better_by_more_than_the_margin_is_not_parity_and_not_worse() -> None:
    figures = covertype.figures(measured([value - 0.02 for value in SAME]))
    assert figures["branch_gap"].value == pytest.approx(-0.04, abs=1e-3)
    assert figures["branch_gap_high"].value < 0
    assert covertype.REPRODUCTION.verdict(figures) == "not reproduced"
    assert "not worse by more than the margin" in covertype._notes(figures)[0]
