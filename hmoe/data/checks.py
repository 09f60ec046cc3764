"""Checks of the arguments of data modules, and the one form that every data error takes."""

import csv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hmoe.errors import ConfigError, DataError


def check_at_least(name: str, value: int, minimum: int) -> None:
    """Raise ConfigError unless `value` is at least `minimum`."""
    if value < minimum:
        raise ConfigError(f"data.{name}={value}: must be at least {minimum}.")


def check_seed(value: int) -> None:
    """Raise ConfigError unless `value` is in [0, 2**32), which numpy seeds without loss."""
    if not 0 <= value < 2**32:
        raise ConfigError(f"data.seed={value}: must be from 0 to {2**32 - 1}.")


def check_shares(**shares: float) -> None:
    """Raise ConfigError unless every share is in (0, 1) and their sum leaves some for training."""
    for name, value in shares.items():
        if not 0 < value < 1:
            raise ConfigError(f"data.{name}={value}: must be more than 0 and less than 1.")
    if sum(shares.values()) >= 1:
        given = " ".join(f"data.{name}={value}" for name, value in shares.items())
        raise ConfigError(f"{given}: the sum must be less than 1, the rest is for training.")


def check_root(value: str | None, wanted: str) -> Path:
    """Return `value` as a path; raise ConfigError if it was not given, DataError if not there."""
    if value is None:
        raise ConfigError(f"data.root=null: must name {wanted}, as in data.root=/path/to/data.")
    root = Path(value).expanduser()
    if not root.exists():
        remedy = "Give an existing path with data.root=; nothing is fetched."
        raise data_error(root, wanted, "nothing there", remedy)
    return root


def check_head(path: Path, head: Sequence[str]) -> None:
    """Raise DataError if the one name of a table's header looks as if it were several."""
    for separator, written in {";": ";", "\t": r"\t", "|": "|", ",": ","}.items():
        if len(head) == 1 and separator in head[0]:
            # Quoted twice: once for the shell, once for Hydra, which stops at a bare ;.
            remedy = f"Give the separator of the file: 'data.separator=\"{written}\"'."
            raise data_error(path, "several columns", f"one, {head[0]!r}", remedy)


def check_cells(path: Path, separator: str, head: Sequence[str]) -> None:
    """Raise DataError if a row of a text table has fewer cells than its header.

    What is no such file after all, such as one that is packed, is passed over.
    """
    if len(separator) != 1:
        return
    with (
        suppress(csv.Error),
        path.open(encoding="utf-8-sig", errors="replace", newline="") as file,
    ):
        lines = csv.reader(file, delimiter=separator, skipinitialspace=True)
        rows = (cells for cells in lines if cells)
        if next(rows, None) != list(head):
            return
        for number, cells in enumerate(rows, start=1):
            if len(cells) < len(head):
                found = f"{len(cells)} of {len(head)} cells in row {number}"
                remedy = "Complete the row. Rows count from 1, without a header."
                raise data_error(path, "as many cells in a row as columns", found, remedy)


def data_error(path: Path, expected: str, found: str, remedy: str) -> DataError:
    """Make the DataError that says which file, what was expected and found, and what to do."""
    return DataError(f"{path}: expected {expected}, found {found}. {remedy}")
