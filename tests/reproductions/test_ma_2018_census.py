"""Census, Ma et al. (2018): every arm runs on made rows; figures and verdict by hand."""

from pathlib import Path

import pytest

from hmoe.config import compose
from hmoe.models import cost
from hmoe.reproductions import ma_2018_census as census
from hmoe.reproductions.record import Cell, Measured, Place
from hmoe.training import assemble
from tests.made import made_sets, write_set
from tests.made.tables import BLOCKS

SMALL = (
    *(f"data.blocks={list(BLOCKS)}", "data.batch_size=8", "trainer.max_steps=1"),
    *("trainer.val_every=1", "optim.warmup_steps=0", "trainer.log_every=1"),
)


@pytest.mark.parametrize("arm", census.ARMS)
def test_an_arm_measures_both_areas(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census, "_COMMON", (*census._COMMON, *SMALL))
    write_set("census_income_kdd", tmp_path)
    with made_sets():
        values = census.measure(Cell(arm, 3), Place(tmp_path, tmp_path / "cell", "cpu"))
    areas = [values[task] for task in census.TASKS]
    assert all(0 <= area <= 1 for area in areas)
    assert values["mean"] == pytest.approx(sum(areas) / 2)


def test_the_arms_are_of_one_size() -> None:
    """Beside the first layer, which all share."""
    sizes = []
    for arm in census.ARMS.values():
        words = sorted(arm, key=lambda word: not word.startswith("model="))
        words = [words[0], *census._COMMON, *words[1:], "data=digits"]
        # Digits have ten classes: ten heads, to be built without the census.
        words = [w.replace("gate.merge=stack", "gate.merge=mean") for w in words]
        sizes.append(cost(assemble(compose(words), device="meta").model).total_params)
    assert max(sizes) / min(sizes) < 1.02


def measured(gaps: list[float], base: float = 0.94) -> list[Measured]:
    """MMoE above the shared bottom by the gaps, in income; all else as the shared bottom."""
    found = []
    for seed, gap in enumerate(gaps):
        for arm in census.ARMS:
            income = base + 0.001 * (seed % 2) + (gap if arm == "mmoe" else 0.0)
            mean = (income + 0.994) / 2
            values = {"income": income, "never_married": 0.994, "mean": mean, "params": 70_000}
            found.append(Measured(Cell(arm, seed), values, 1.0))
    return found


def test_a_gap_as_published_is_reproduced() -> None:
    gaps = [0.0064 + 0.0002 * (-1) ** n for n in range(10)]
    figures = census.figures(measured(gaps))
    assert figures["mmoe_gap_income"].value == pytest.approx(0.0064)
    assert figures["published_gap_inside"].value == 1
    assert figures["mmoe_gap_mean"].value == pytest.approx(0.0032)
    assert census.REPRODUCTION.verdict(figures) == "reproduced"
    assert "lies inside" in census._notes(figures)[0]


def test_a_gap_that_seeds_cannot_tell_from_none_is_in_shape_only_and_equivalent() -> None:
    figures = census.figures(measured([0.00001 + 0.0002 * (-1) ** n for n in range(10)]))
    assert census.REPRODUCTION.verdict(figures) == "in shape only"
    assert "shared bottom is better" not in census._notes(figures)[1]
    assert figures["mmoe_gap_income_equivalence_p"].value < 0.05
    assert figures["published_gap_inside"].value == 0
    assert "lies outside" in census._notes(figures)[0]
    assert "is ruled out" in census._notes(figures)[0]


def test_a_gap_the_other_way_is_not_reproduced_and_told() -> None:
    figures = census.figures(measured([-0.0064 + 0.0002 * (-1) ** n for n in range(10)]))
    assert census.REPRODUCTION.verdict(figures) == "not reproduced"
    assert "In income the shared bottom is better than MMoE." in census._notes(figures)[1]


def test_areas_below_the_mark_are_not_reproduced() -> None:
    figures = census.figures(measured([0.0064] * 9 + [0.0066], base=0.91))
    assert census.REPRODUCTION.verdict(figures) == "not reproduced"
