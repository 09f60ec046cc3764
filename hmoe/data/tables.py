"""Tables: rows of numbers and categories, of a file of yours or of a published set.

A row of the Census-Income set, its first columns and its last, is

    38, Private, 6, 36, 1st 2nd 3rd or 4th grade, 0, Not in universe, .. 12, 95, - 50000.

Numbers are standardised by the training rows, flags of 0 and 1 left; a category becomes one column
a value that the training rows have, and one for values that they have not. See table_schema.py for
what columns are for, table_encoding.py for what becomes of them.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hmoe.data.checks import check_cells, check_root, check_shares, data_error
from hmoe.data.known import KnownSet
from hmoe.data.known_sets import KNOWN_SETS
from hmoe.data.loader import SPLITS, Batch, Split
from hmoe.data.rows import RowData
from hmoe.data.splits import split_by_hash
from hmoe.data.table_encoding import PARQUET, Table, encode, read_table
from hmoe.data.table_schema import Schema
from hmoe.errors import ConfigError, check_names, nearest


class TableData(RowData):
    """A table as vectors: x float32 (B, features); y int64 (B,), or float32 (B, targets).

    A set adds `_read`, its rows and which split they belong to. The table is read when its width is
    asked for, once.

    Args:
        schema: what the columns are for, see `Schema.parse`.
        batch_size: rows a batch.
        seed: seed of the training stream; the splits do not depend on it.
    """

    def __init__(self, *, schema: Mapping[str, Any] | None, batch_size: int, seed: int) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        self.schema = Schema.parse(schema)
        self.task = self.schema.kind
        self.domain_labels = tuple(self.schema.domains)
        if self.task == "yes_or_no":
            self.target_names = tuple(target.name for target in self.schema.targets)

    @abstractmethod
    def _read(self) -> tuple[Any, Mapping[Split, np.ndarray], Path]:
        """The rows as a frame of pandas, row numbers of every split, and where they came from."""

    @cached_property
    def table(self) -> Table:
        """The table, encoded.

        Raises:
            DataError: the file is missing, or is not what the schema says.
        """
        frame, rows, path = self._read()
        for split in SPLITS:
            if not len(rows[split]):
                raise data_error(path, f"rows for {split}", "none", "Give more rows.")
        return encode(frame, self.schema, rows, path)

    @property
    def in_dim(self) -> int:
        """Features of a row."""
        return len(self.table.features)

    @property
    def out_dim(self) -> int:  # type: ignore[override]
        """Classes, or targets."""
        return len(self.table.classes)

    @property
    def domain_names(self) -> tuple[tuple[str, ...], ...]:  # type: ignore[override]
        """Values of every label."""
        return self.table.domain_names

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        """As of every set of rows, with the names of the classes."""
        own = {"class": self.table.classes} if self.task == "classification" else {}
        return super().label_names | own

    @property
    def target_sd(self) -> np.ndarray:
        """What 1 of a standardised target is in its own units, (targets,)."""
        return self.table.sd

    def _load(self) -> dict[Split, tuple[np.ndarray, np.ndarray]]:
        if self.domain_labels:
            self._domains = {s: torch.from_numpy(d) for s, d in self.table.domain.items()}
        return {split: (self.table.x[split], self.table.y[split]) for split in SPLITS}

    def _batch(self, split: Split, rows: Tensor) -> Batch:
        batch = super()._batch(split, rows)
        return {**batch, "x": _spread_out(batch["x"], self.table)}

    def _digested(self, values: np.ndarray) -> bytes:
        # Rounded, since another machine's means differ in the last bits.
        scale = 1e4 if np.issubdtype(values.dtype, np.floating) else 1
        return np.rint(values * scale).astype("<i4").tobytes()


def _spread_out(x: Tensor, table: Table) -> Tensor:
    """Rows as a model reads them: (B, numbers + categories) -> (B, features), a 1 a category."""
    features = x.new_zeros(len(x), len(table.features))
    features[:, : table.num_numbers] = x[:, : table.num_numbers]
    return features.scatter_(1, x[:, table.num_numbers :].long(), 1.0)


class Tabular(TableData):
    """A CSV or Parquet file of yours, one row a case, with a header.

    Rows are split by a hash of their number, or as a column says: train, val or test.

    Args:
        root: the file; .parquet and .pq are Parquet, all others are read as text.
        schema: what the columns are for, see `Schema.parse`.
        separator: between the cells of a line.
        missing: words of a cell that mean that nothing is known.
        split: name of a column that holds train, val and test; None: by hash.
        val_share, test_share: shares of the rows by hash.
        batch_size, seed: see `TableData`.

    Raises:
        ConfigError: no root, no schema, shares that do not fit.
        DataError: no file, one that cannot be read, or that is not what the schema says.
    """

    def __init__(
        self,
        *,
        root: str | None,
        schema: Mapping[str, Any] | None,
        separator: str,
        missing: Sequence[str],
        split: str | None,
        val_share: float,
        test_share: float,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(schema=schema, batch_size=batch_size, seed=seed)
        check_shares(val_share=val_share, test_share=test_share)
        self._root = check_root(root, "a CSV or Parquet file")
        if self._root.is_dir() and self._root.suffix not in PARQUET:  # Parquet may be in pieces
            remedy = f"Name a file in it, as in data.root={self._root / 'table.csv'}."
            raise data_error(self._root, "a CSV or Parquet file", "a folder", remedy)
        separator = "\t" if separator == r"\t" else separator  # a shell hands it on as written
        self._form: dict[str, Any] = {"separator": separator, "missing": tuple(missing)}
        self._split = split
        self._shares = {"val_share": val_share, "test_share": test_share}

    def _read(self) -> tuple[Any, Mapping[Split, np.ndarray], Path]:
        frame = read_table(self._root, self._root, columns=None, comment=None, **self._form)
        # A row cut short ends in missing cells, which are allowed, unlike such a row.
        if self._root.suffix not in PARQUET and frame.iloc[:, -1].isna().any():
            check_cells(self._root, self._form["separator"], list(frame.columns))
        if self._split is None:
            return frame, split_by_hash(len(frame), **self._shares), self._root
        if self._split not in frame.columns:
            remedy = f"Name it with data.split.{nearest(self._split, list(frame.columns))}"
            raise data_error(self._root, f"a column {self._split!r}", "none", remedy)
        said_R = frame[self._split].astype("string").fillna("")
        odd_R = np.flatnonzero(~said_R.isin(SPLITS))
        if len(odd_R):
            found = f"{said_R.iloc[odd_R[0]]!r} in row {odd_R[0] + 1}"
            remedy = "Write one of the three into every row."
            raise data_error(self._root, f"train, val or test in {self._split!r}", found, remedy)
        return frame, {s: np.flatnonzero(said_R == s) for s in SPLITS}, self._root


class KnownTable(TableData):
    """A published table, read from the files of a known set, in blocks that are told.

    Args:
        root: the folder of the set; where `hmoe fetch` puts it is the default.
        known: name of the set.
        files: names of its files, one after the other.
        separator: between the cells of a line, as pandas reads it.
        columns: their names, where the files have no header; None: their first line has them.
        comment: a line that begins with it is passed over; None: none does.
        missing: words of a cell that mean that nothing is known.
        blocks: rows for train, val and test, in this order; together all rows.
        shuffle: seed of a permutation of all rows before; None: as they are.
        schema: what the columns are for, see `Schema.parse`.
        batch_size, seed: see `TableData`.

    Raises:
        ConfigError: a set or a file that is not known, blocks that are not three.
        DataError: a file that is missing, is not the published one, or has other rows.
    """

    def __init__(
        self,
        *,
        root: str,
        known: str,
        files: Sequence[str],
        separator: str,
        columns: Sequence[str] | None,
        comment: str | None,
        missing: Sequence[str],
        blocks: Sequence[int],
        shuffle: int | None,
        schema: Mapping[str, Any] | None,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(schema=schema, batch_size=batch_size, seed=seed)
        check_names("data.known", [known], KNOWN_SETS)
        there_are = [file.name for file in KNOWN_SETS[known].files]
        if not files:
            raise ConfigError(f"data.files = []: must name some of {', '.join(there_are)}.")
        for file in files:
            if file not in there_are:
                raise ConfigError(
                    f"data.files = {file}: must be one of {', '.join(there_are)}, the files of "
                    f"{known}.{nearest(file, there_are)}"
                )
        if len(blocks) != len(SPLITS) or min(blocks) < 1:
            raise ConfigError(
                f"data.blocks = {list(blocks)}: must be three numbers of at least 1, the rows for "
                f"{', '.join(SPLITS)}."
            )
        self._known, self._root, self._files = known, Path(root).expanduser(), tuple(files)
        self._form = separator, None if columns is None else tuple(columns), comment, tuple(missing)
        self._blocks, self._shuffle = tuple(blocks), shuffle

    def _read(self) -> tuple[Any, Mapping[Split, np.ndarray], Path]:
        known = KNOWN_SETS[self._known]
        frame = _published(known, self._root, self._files, *self._form)
        if sum(self._blocks) != len(frame):
            expected = f"{sum(self._blocks)} rows, as data.blocks has them"
            raise data_error(self._root, expected, f"{len(frame)}", "Give data.blocks anew.")
        order = np.arange(len(frame))
        if self._shuffle is not None:  # draws of RandomState are the same under every numpy
            order = np.random.RandomState(self._shuffle).permutation(len(frame))
        parts = np.split(order, np.cumsum(self._blocks)[:-1])
        return frame, dict(zip(SPLITS, parts, strict=True)), self._root


@lru_cache(maxsize=1)  # many runs of one process read one set, and its digests stay the same
def _published(
    known: KnownSet,
    root: Path,
    files: tuple[str, ...],
    separator: str,
    columns: tuple[str, ...] | None,
    comment: str | None,
    missing: tuple[str, ...],
) -> Any:
    """The files of a known set, one after the other, as one frame; nobody writes into it."""
    import pandas as pd

    frames = [
        read_table(
            root / file,
            BytesIO(known.read(root, file)),
            separator=separator,
            columns=columns,
            comment=comment,
            missing=missing,
        )
        for file in files
    ]
    return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
