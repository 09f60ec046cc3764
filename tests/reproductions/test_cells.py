"""Measuring cells: each once, whatever ends the run; errors are told, and keep the others."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hmoe.reproductions.cells import CellError, declared, fingerprint, measure_all
from hmoe.reproductions.record import Cell, Criterion, Measured, Reproduction
from tests.reproductions import made

# A worker is a fresh interpreter that loads torch: seconds, on a machine that does other work too.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def measured(
    what: Reproduction, folder: Path, *, seeds: int = 5, workers: int = 1
) -> list[Measured]:
    return measure_all(
        what,
        root=folder,
        folder=folder / "run",
        size="cpu",
        seeds=seeds,
        workers=workers,
        show=lambda cell, done, total: None,
    )


def visits(folder: Path) -> list[int]:
    return sorted(int(line) for line in (folder / "visits").read_text().split())


def test_every_cell_is_measured_once_and_its_numbers_stay(tmp_path: Path) -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    first = measured(made.MADE, tmp_path, seeds=2, workers=2)
    assert [(m.cell, m.values) for m in first] == [
        (Cell("arm", 0), {"value": 0}),
        (Cell("arm", 1), {"value": 1}),
    ]
    assert os.environ.get("OMP_NUM_THREADS") == before
    more = measured(made.MADE, tmp_path, seeds=3)
    assert more[:2] == first
    assert visits(tmp_path) == [0, 1, 2]
    assert all(m.commit for m in more)


def test_an_error_is_told_with_its_cell_and_keeps_the_others(tmp_path: Path) -> None:
    with pytest.raises(CellError, match=r"cell arm/seed_2: ValueError: two is bad .*failure\.txt"):
        measured(made.with_measure(made.measure_badly), tmp_path)
    failure = tmp_path / "run/arm/seed_2/failure.txt"
    assert 'raise ValueError("two is bad")' in failure.read_text()
    assert {0, 1} <= set(visits(tmp_path))
    assert len(measured(made.MADE, tmp_path)) == 5
    assert visits(tmp_path) == [0, 1, 2, 3, 4]
    assert not failure.exists()


def test_numbers_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(CellError, match="arm/seed_0: TypeError: Object of type object is not JSON"):
        measured(made.with_measure(made.measure_unwritable), tmp_path, seeds=1)


def test_a_worker_that_is_killed_is_told(tmp_path: Path) -> None:
    with pytest.raises(CellError, match="the process of a cell was killed"):
        measured(made.with_measure(made.measure_to_death), tmp_path, seeds=2)
    assert visits(tmp_path) == [0]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_no_process_and_goes_on(tmp_path: Path, end: signal.Signals) -> None:
    code = (
        "from pathlib import Path\n"
        "from tests.reproductions import made, test_cells\n"
        "if __name__ == '__main__':\n"
        "    what = made.with_measure(made.measure_slowly)\n"
        f"    test_cells.measured(what, Path({str(tmp_path)!r}), seeds=3)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    roots = os.pathsep.join(path for path in sys.path if path)
    run = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": roots},
        stderr=subprocess.DEVNULL,
    )
    wait_for((tmp_path / "pid").exists)
    time.sleep(0.2)  # the file has its number
    worker = int((tmp_path / "pid").read_text())
    run.send_signal(end)
    run.wait()
    wait_for(lambda: not alive(worker))
    assert visits(tmp_path) == [0]
    assert len(measured(made.MADE, tmp_path, seeds=3)) == 3
    assert visits(tmp_path) == [0, 1, 2]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition: object) -> None:
    end = time.monotonic() + 280
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def test_criteria_are_declared_before_the_first_cell_and_stay(tmp_path: Path) -> None:
    with pytest.raises(CellError):
        measured(made.with_measure(made.measure_unwritable), tmp_path, seeds=1)
    said = declared(tmp_path / "run")
    assert said["criteria"] == [
        {"figure": "mean", "says": "the mean", "role": "claim", "low": 1, "high": 3}
    ]
    assert abs(said["at"] - time.time()) < 300
    other = Criterion(figure="mean", says="the mean", role="claim", low=-1)
    measured(replace(made.MADE, criteria=(other,)), tmp_path, seeds=1)
    assert declared(tmp_path / "run") == said


def test_a_fingerprint_is_of_every_number() -> None:
    one = [Measured(Cell("a", 0), {"x": [1.0, 2.0]}, 3.0)]
    assert fingerprint(one) == fingerprint([replace(one[0], seconds=4.0)])
    for other in ({"x": [1.0, 2.1]}, {"y": [1.0, 2.0]}):
        assert fingerprint([replace(one[0], values=other)]) != fingerprint(one)
    assert fingerprint([replace(one[0], cell=Cell("a", 1))]) != fingerprint(one)
