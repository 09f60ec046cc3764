"""Measure the cells of a reproduction: side by side, and again only those that are missing.

Every cell leaves its numbers in a file of its own. Stop it in any way and start it again with the
same command: it goes on where it was. The processes that measure end with the one that asked.
"""

import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from hmoe.errors import HmoeError
from hmoe.files import write_atomically
from hmoe.reproductions.record import Cell, Measured, Place, Reproduction, Size, Values
from hmoe.training import keep_memory, provenance

VALUES = "values.json"
DECLARED = "declared.json"
FAILURE = "failure.txt"
_KEPT = "What the other cells measured is kept; the same command goes on with the rest."


class CellError(HmoeError):
    """A cell that could not be measured."""


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

    Raises:
        CellError: a cell failed, or its process was killed; the others keep their numbers.
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
    commit = _commit()
    with _threads_of_children(threads), _pool(workers, threads) as pool:
        futures = {
            pool.submit(
                _one, reproduction.measure, cell, Place(root, folder / cell.place, size), commit
            ): cell
            for cell in missing
        }
        for done, future in enumerate(as_completed(futures), total - len(missing) + 1):
            cell = futures[future]
            try:
                future.result()
            except BrokenProcessPool as error:
                raise CellError(
                    "the process of a cell was killed, perhaps for want of memory; workers=1 needs "
                    f"less. {_KEPT}"
                ) from error
            except Exception as error:
                raise CellError(
                    f"cell {cell.place}: {type(error).__name__}: {error} The traceback is in "
                    f"{folder / cell.place / FAILURE}. {_KEPT}"
                ) from error
            show(cell.place, done, total)


def cells_of_other_commits(measured: Sequence[Measured]) -> list[str]:
    """The commits, other than that of the code, at which cells were measured by earlier calls."""
    return sorted({m.commit for m in measured if m.commit} - {_commit()})


def _commit() -> str | None:
    """The commit of the code, with a plus where it has changes."""
    at = provenance()
    return at["git_commit"] and at["git_commit"] + "+" * bool(at["git_dirty"])


@contextmanager
def _pool(workers: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Some processes; at the end none is left, nor waited for."""
    # A fresh interpreter a worker: nothing of this process, not its threads either, goes along.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(threads,))
    try:
        yield pool
    finally:
        # Without this an error would wait for all the other cells.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _threads_of_children(threads: int) -> Iterator[None]:
    """Within it, processes that start are told by their surroundings how many threads to use."""
    name = "OMP_NUM_THREADS"  # read by libraries when a worker loads them
    before = os.environ.get(name)
    os.environ[name] = str(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _start(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    keep_memory()  # as `hmoe train` does
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the rest
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would finish what is queued, and then wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _one(
    measure: Callable[[Cell, Place], Values], cell: Cell, place: Place, commit: str | None
) -> None:
    place.folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    try:
        values = dict(measure(cell, place))
        seconds = time.perf_counter() - started
        said = json.dumps({"values": values, "seconds": seconds, "commit": commit})
    except Exception:
        write_atomically(place.folder / FAILURE, traceback.format_exc())
        raise
    write_atomically(place.folder / VALUES, said)
    (place.folder / FAILURE).unlink(missing_ok=True)


def _read(folder: Path, cell: Cell) -> Measured:
    said = json.loads((folder / cell.place / VALUES).read_text(encoding="utf-8"))
    return Measured(cell, said["values"], said["seconds"], said.get("commit"))


def fingerprint(measured: Sequence[Measured]) -> str:
    """SHA-256 over all numbers of all cells."""
    plain = [[m.cell.arm, m.cell.seed, m.values] for m in measured]
    return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
