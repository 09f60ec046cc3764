"""Turns, ratios, spreads and aims, worked out by hand on a clock that we turn."""

import json
from pathlib import Path

import pytest

from hmoe.bench import measure
from hmoe.bench.measure import Aim, Timing, in_turns, markdown, save, spread, table


class Clock:
    """Both clocks of the machine: work moves the wall's by its seconds, the processor's twice."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def work(self, name: str, seconds: list[float]):
        """A thing that takes the next of some seconds whenever its turn comes."""
        left = iter(seconds)

        def run() -> None:
            self.order.append(name)
            self.now += next(left)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(measure.time, "perf_counter", lambda: made.now)
    monkeypatch.setattr(measure.time, "process_time", lambda: 2 * made.now)
    return made


def test_things_take_turns_and_the_first_is_not_counted(clock: Clock) -> None:
    runs = {"a": clock.work("a", [100, 1, 2]), "b": clock.work("b", [100, 4, 2])}
    found = in_turns(runs, rounds=2, title="by hand")
    assert clock.order == ["a", "b", "a", "b", "a", "b"]
    assert found["a"] == Timing([1, 2], [2, 4])
    assert found["b"] == Timing([4, 2], [8, 4])


def test_ratios_are_of_neighbours_not_of_medians() -> None:
    slow, fast = Timing([2, 9, 8], [1, 1, 1]), Timing([1, 3, 2], [4, 2, 1])
    assert slow.over(fast, "wall") == [2, 3, 4]
    assert slow.over(fast, "cpu") == [0.25, 0.5, 1]
    assert slow.seconds("wall") == 8


def test_a_spread_is_the_median_and_the_extremes() -> None:
    assert spread([3, 1, 2, 10]) == {"median": 2.5, "lowest": 1, "highest": 10}


@pytest.mark.parametrize(
    ("measured", "sense", "reached"),
    [
        (1.05, "at most", True),
        (1.1, "at most", True),
        (1.11, "at most", False),
        (1.05, "at least", False),
        (1.1, "at least", True),
        (1.11, "at least", True),
    ],
)
def test_an_aim_is_reached_on_its_side_of_the_bound(measured, sense, reached) -> None:
    assert Aim("time", measured, 1.1, sense).reached is reached


def test_an_aim_without_a_number_is_neither_reached_nor_missed() -> None:
    aim = Aim("time", None, 2.0, "at least", "no such machine")
    assert aim.reached is None
    assert aim.row() == {
        "name": "time",
        "measured": "no such machine",
        "aim": "at least 2",
        "reached": "not measured",
    }


def test_both_tables_show_the_same_cells() -> None:
    rows = [
        {"name": "a", "time": spread([1, 2, 3]), "share": 0.5, "whole": True, "more": None},
        {"name": "b", "time": spread([4]), "share": 1, "whole": False, "more": "x"},
    ]
    columns = ("name", "time", "share", "whole", "more")
    cells = [
        ["a", "2.000 (1.00 to 3.00)", "0.500", "yes", "-"],
        ["b", "4.000 (4.00 to 4.00)", "1", "no", "x"],
    ]
    lines = markdown("title", rows, columns).splitlines()
    assert [line.strip("| ").split(" | ") for line in lines[4:]] == cells
    by_column = [list(column.cells) for column in table("title", rows, columns).columns]
    assert [list(row) for row in zip(*by_column, strict=True)] == cells


def test_a_record_is_kept_with_its_circumstances(tmp_path: Path) -> None:
    path = save({"ratio": 1.5}, suite="layer", out=tmp_path / "new", command="hmoe bench layer")
    found = json.loads(path.read_text())
    assert path.name == "layer.json"
    assert found["ratio"] == 1.5
    assert found["command"] == "hmoe bench layer"
    assert {"threads", "git_commit", "versions", "hardware"} <= found.keys()
