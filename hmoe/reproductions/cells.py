"""Measure the cells of a reproduction: side by side, and again only those that are missing.

Every cell leaves its numbers in a file of its own. Stop it in any way and start it again with the
same command: it goes on where it was.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from hmoe.files import write_atomically
from hmoe.reproductions.record import Cell, Measured, Place, Reproduction, Size

VALUES = "values.json"
DECLARED = "declared.json"


def measure_all(
    reproduction: Reproduction,
    *,
    root: Path,
    folder: Path,
    size: Size,
    seeds: int,
    workers: int,
    show: Callable[[str, int, int], None],
) -> list[Measured]:
    """The numbers of all cells, in the order of the cells.

    Args:
        reproduction: what is measured.
        root: the folder of the known sets.
        folder: the folder of the reproduction; made if missing.
        size: of the runs.
        seeds: seeds of an arm.
        workers: processes side by side, each with one thread ("gpu": one with all).
        show: called with a cell, and how many are done of how many.
    """
    cells = reproduction.cells(size, seeds)
    folder.mkdir(parents=True, exist_ok=True)
    declare(reproduction, folder)
    missing = [cell for cell in cells if not (folder / cell.place / VALUES).exists()]
    show("", len(cells) - len(missing), len(cells))
    if missing:
        _measure(reproduction, missing, root, folder, size, workers, len(cells), show)
    return [_read(folder, cell) for cell in cells]


def criteria_of(reproduction: Reproduction) -> list[dict[str, Any]]:
    """The criteria as plain data; infinities, which JSON has not, as null."""
    plain = [asdict(criterion) for criterion in reproduction.criteria]
    return [
        {k: None if v in (float("inf"), -float("inf")) else v for k, v in p.items()} for p in plain
    ]


def declare(reproduction: Reproduction, folder: Path) -> None:
    """Write the criteria down before the first cell; what was declared first stays."""
    file = folder / DECLARED
    if not file.exists():
        said = {"criteria": criteria_of(reproduction), "at": time.time()}
        write_atomically(file, json.dumps(said, indent=1))


def declared(folder: Path) -> dict[str, Any]:
    """What was written down before the first cell."""
    found: dict[str, Any] = json.loads((folder / DECLARED).read_text(encoding="utf-8"))
    return found


def _measure(
    reproduction: Reproduction,
    missing: Sequence[Cell],
    root: Path,
    folder: Path,
    size: Size,
    workers: int,
    total: int,
    show: Callable[[str, int, int], None],
) -> None:
    threads = 1 if size == "cpu" else max(1, os.cpu_count() or 1)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by libraries when a worker loads them
    # A fresh interpreter a worker: nothing of this process, not its threads either, goes along.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(threads,))
    try:
        futures = {
            pool.submit(_one, reproduction.name, cell, Place(root, folder / cell.place, size)): cell
            for cell in missing
        }
        for done, future in enumerate(as_completed(futures), total - len(missing) + 1):
            future.result()
            show(futures[future].place, done, total)
    finally:
        # Without this an error would wait for all the other cells.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _start(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _one(name: str, cell: Cell, place: Place) -> None:
    from hmoe.reproductions.registry import REPRODUCTIONS

    place.folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    values = REPRODUCTIONS[name].measure(cell, place)
    seconds = time.perf_counter() - started
    said = {"values": dict(values), "seconds": seconds}
    write_atomically(place.folder / VALUES, json.dumps(said))


def _read(folder: Path, cell: Cell) -> Measured:
    said = json.loads((folder / cell.place / VALUES).read_text(encoding="utf-8"))
    return Measured(cell, said["values"], said["seconds"])


def fingerprint(measured: Sequence[Measured]) -> str:
    """SHA-256 over all numbers of all cells."""
    plain = [[m.cell.arm, m.cell.seed, m.values] for m in measured]
    return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
