"""Ma et al. (2018): runs that do not depend on their company, and verdicts on made errors."""

from pathlib import Path

import numpy as np
import pytest

from hmoe.config import compose
from hmoe.reproductions import ma_2018_synthetic as ma
from hmoe.reproductions.record import Cell, Measured
from hmoe.reproductions.registry import REPRODUCTIONS

REPRODUCTION = REPRODUCTIONS["ma_2018_synthetic"]


def made(gap_omoe: float, gap_mmoe: float, runs: int = 60, noise: float = 0.0) -> list[Measured]:
    """Errors of .04, .03 and .02 at p = 1, and by the gaps more at p = 0.5; runs differ."""
    draw = np.random.default_rng(0)
    gaps = {"sb": 0.01, "omoe": gap_omoe, "mmoe": gap_mmoe}
    width = {"sb": 0.004, "omoe": 0.002, "mmoe": 0.002}
    cells = []
    for block in range(runs // 10):
        values = {}
        for place, system in enumerate(ma.SYSTEMS):
            own = 0.04 - 0.01 * place + width[system] * draw.normal(size=10)
            values[f"{system}/1.0"] = own.tolist()
            values[f"{system}/0.5"] = (own + gaps[system] + noise * draw.normal(size=10)).tolist()
        cells.append(Measured(Cell("block", block), values, 1.0))
    return cells


def test_a_gap_that_is_the_same_in_every_run_has_no_width() -> None:
    figures = ma.figures(made(0.005, 0.001))
    gap = figures["gap_omoe_minus_mmoe"]
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.004, 0.004, 0.004))
    assert figures["gap_sb"].value == pytest.approx(0.01)
    assert figures["runs"].value == 60
    assert figures["mmoe_1.0"].value == pytest.approx(0.02, abs=1e-3)
    assert figures["spread_1.0"].value == pytest.approx(2, rel=0.3)
    assert figures["sb_minus_mmoe_1.0"].value == pytest.approx(0.02, abs=2e-3)
    assert figures["sb_minus_mmoe_0.5"].value == pytest.approx(0.029, abs=2e-3)


def test_the_bootstrap_interval_is_that_of_a_mean() -> None:
    """Runs are paired: what counts is the deviation of their own differences of gaps."""
    cells = made(0.005, 0.001, noise=0.01)
    error = ma.errors_of(cells)
    gaps = [error[system, 0.5] - error[system, 1.0] for system in ("omoe", "mmoe")]
    half = 1.96 * np.std(gaps[0] - gaps[1]) / 60**0.5
    gap = ma.figures(cells)["gap_omoe_minus_mmoe"]
    assert (gap.high - gap.low) / 2 == pytest.approx(half, rel=0.05)


@pytest.mark.parametrize(
    ("cells", "verdict"),
    [
        (made(0.005, 0.001), "reproduced"),
        (made(0.005, 0.001, runs=50), "in shape only"),  # too few
        (made(0.005, 0.0049, noise=0.01), "in shape only"),  # too noisy
        (made(0.001, 0.005), "not reproduced"),
    ],
)
def test_verdicts_on_made_errors(cells: list[Measured], verdict: str, tmp_path: Path) -> None:
    figures = ma.figures(cells)
    if verdict == "in shape only" and len(cells) == 6:
        assert figures["gap_omoe_minus_mmoe"].value > 0
    assert REPRODUCTION.verdict(figures) == verdict
    assert {row.figure for row in REPRODUCTION.rows} <= figures.keys()
    assert {criterion.figure for criterion in REPRODUCTION.criteria} <= figures.keys()
    assert all(REPRODUCTION.notes(figures))


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    ma.draw(made(0.005, 0.001), tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_a_run_learns_the_same_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ma, "NUM_TEST", 50)
    together, alone = ma.train_block([2, 3], 3), ma.train_block([3], 3)
    assert len(alone) == 6
    for key, (error,) in alone.items():
        assert together[key][1] == pytest.approx(error, rel=1e-4)
        assert together[key][0] != pytest.approx(error, rel=1e-2)


def test_tasks_and_rows_are_those_of_the_data_module() -> None:
    words = ["data=mmoe_synthetic", "model=multi_task", "balance=none", "selection=soft"]
    data = compose(words).data
    assert (data.batch_size, data.in_dim, data.noise) == (ma.BATCH, ma.IN_DIM, ma.NOISE)
    assert data.num_test == ma.NUM_TEST
    assert data.scale == ma.TASKS["scale"]
    assert tuple(data.frequencies) == ma.TASKS["frequencies"]
    assert tuple(data.phases) == ma.TASKS["phases"]


def test_cells_are_blocks_of_runs() -> None:
    assert [cell.seed for cell in REPRODUCTION.cells("cpu", 60)] == [0, 1, 2, 3, 4, 5]
    assert len(REPRODUCTION.cells("cpu", 61)) == 7
