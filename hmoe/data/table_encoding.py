"""Encoding: a file read as a table, and that to vectors, targets and labels.

What a number or a category becomes is known of the training rows alone. A number that is missing
counts as their mean, beside a column that says so, if any is missing there; a category that is
missing is a value of its own; a target must be there.

Letters: R rows in the order train, val, test; N numbers, C categories.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hmoe.data.checks import check_head, data_error
from hmoe.data.loader import SPLITS, Split
from hmoe.data.table_schema import Schema, Target
from hmoe.errors import nearest

PARQUET = (".parquet", ".pq")
MISSING = "missing"
_YES_OR_NO = {"1": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "false": 0.0, "no": 0.0}
_MOST_NAMES = 20  # that a message shows


@dataclass(frozen=True)
class Table:
    """A table as a model reads it.

    Attributes:
        x: split -> numbers, and of every category the number of the feature that is 1, float32
            (R, N + C); a model reads a column for every value of a category.
        y: split -> targets: int64 (R,) of classes, float32 (R, targets) of values, standardised,
            and of yes or no.
        domain: split -> labels int64 (R, labels).
        features: names of the features.
        num_numbers: N; the first features are these.
        classes: names of the classes, or of the targets.
        domain_names: the values of every label.
        sd: of each target of regression before it was standardised, in its own units.
    """

    x: Mapping[Split, np.ndarray]
    y: Mapping[Split, np.ndarray]
    domain: Mapping[Split, np.ndarray]
    features: tuple[str, ...]
    num_numbers: int
    classes: tuple[str, ...]
    domain_names: tuple[tuple[str, ...], ...]
    sd: np.ndarray


def read_table(
    path: Path,
    source: Path | BytesIO,
    *,
    separator: str,
    columns: Sequence[str] | None,
    comment: str | None,
    missing: Sequence[str],
) -> Any:
    """Read a file into a frame of pandas; of text every cell is text or missing.

    Args:
        path: for messages, and for the kind of the file.
        source: what is read.
        separator, columns, comment, missing: see `KnownTable`.

    Raises:
        DataError: it cannot be read as a table, or a row has more cells than there are columns.
    """
    import pandas as pd

    # The fast engine knows white space, or one byte, between cells. Of others pandas would warn.
    fast = separator == r"\s+" or len(separator.encode()) <= 1
    engine: Literal["c", "python"] = "c" if fast else "python"
    try:
        if path.suffix in PARQUET:
            frame = pd.read_parquet(source)
            return frame.mask(frame.isin(list(missing)))
        with warnings.catch_warnings():
            # What is left to warn of: it leaves out the cells beyond the last column.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            if columns is None and isinstance(source, Path):
                check_head(path, list(pd.read_csv(source, sep=separator, engine=engine, nrows=0)))
            return pd.read_csv(
                source,
                sep=separator,
                engine=engine,
                names=None if columns is None else list(columns),
                header=0 if columns is None else None,
                comment=comment,
                dtype="category",  # few words in many cells
                keep_default_na=False,
                na_values=list(missing),
                skipinitialspace=True,
                index_col=False,
            )
    except pd.errors.ParserWarning as warning:
        remedy = "Is data.separator right, and does no number have it for a decimal point?"
        raise data_error(path, "as many cells in a row as columns", "more", remedy) from warning
    except (ValueError, OSError, UnicodeDecodeError) as error:  # pandas' own are ValueErrors
        reason = str(error).splitlines()[0]
        remedy = "Is it CSV with data.separator between its cells, or Parquet?"
        raise data_error(path, "a table", reason, remedy) from error


def encode(frame: Any, schema: Schema, rows: Mapping[Split, np.ndarray], path: Path) -> Table:
    """Encode the rows of every split.

    Args:
        frame: pandas; cells that are missing are NA; its columns are text or values.
        schema: what the columns are for.
        rows: split -> row numbers.
        path: where the table came from, for messages.

    Raises:
        DataError: a column or a target that is not there, words among numbers, a class that cannot
            be learnt, an answer that no row has.
    """
    for column in schema.columns:
        if column not in frame.columns:
            names = [str(name) for name in frame.columns]
            shown = ", ".join(names[:_MOST_NAMES]) + (", .." if len(names) > _MOST_NAMES else "")
            remedy = f"Name another in data.schema.{nearest(column, names)}"
            raise data_error(path, f"a column {column!r}", f"only {shown}", remedy)
    order_R = np.concatenate([rows[split] for split in SPLITS])
    num_train = len(rows["train"])
    table = _Reader(frame.iloc[order_R], order_R, num_train, path)
    features: list[str] = []
    columns = []
    for names, column_R in table.inputs(schema):
        columns.append(column_R + (len(features) if len(names) > 1 else 0))
        features += names
    x = np.stack(columns, 1).astype(np.float32)
    y, classes, sd = table.targets(schema)
    labels = [table.label(columns) for columns in schema.domains.values()]
    domain = np.stack([codes for codes, _ in labels], 1) if labels else np.zeros((len(x), 0), int)
    ends = np.cumsum([0, *(len(rows[split]) for split in SPLITS)])
    parts = {s: slice(a, b) for s, a, b in zip(SPLITS, ends, ends[1:], strict=False)}
    return Table(
        x={split: x[part] for split, part in parts.items()},
        y={split: y[part] for split, part in parts.items()},
        domain={split: domain[part] for split, part in parts.items()},
        features=tuple(features),
        num_numbers=len(columns) - len(schema.categories),
        classes=classes,
        domain_names=tuple(names for _, names in labels),
        sd=sd,
    )


@dataclass(frozen=True)
class _Reader:
    """Columns of a table whose rows are in the order train, val, test.

    Attributes:
        frame: the rows.
        row_R: their numbers in the file, from 0.
        num_train: the first so many are for training.
        path: for messages.
    """

    frame: Any
    row_R: np.ndarray
    num_train: int
    path: Path

    def inputs(self, schema: Schema) -> Iterator[tuple[list[str], np.ndarray]]:
        """First numbers: a name and its values (R,); then categories: names, and which it is."""
        for column in schema.numbers:
            value_R = self.number(column)
            known_R = ~np.isnan(value_R)
            train_R = value_R[: self.num_train][known_R[: self.num_train]]
            if not len(train_R):
                self._refuse(column, 0, "a number in some training row", "none", "Leave it out.")
            mean, sd = train_R.mean(), train_R.std()
            value_R = np.where(known_R, value_R, mean)
            if not np.isin(train_R, (0, 1)).all():  # a flag stays: a rare one would become huge
                value_R = (value_R - mean) / (sd if sd > 0 else 1.0)
            yield [column], value_R
            if not known_R[: self.num_train].all():
                yield [f"{column}={MISSING}"], (~known_R).astype(float)
        for column in schema.categories:
            code_R, words = self.text(column)
            code_R, names = _sorted(code_R, words, self.num_train)
            yield [f"{column}={name}" for name in (*names, "unseen")], code_R

    def targets(self, schema: Schema) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
        """The targets, names of classes or targets, and deviations in the targets' own units."""
        names = tuple(target.name for target in schema.targets)
        for target in schema.targets:
            if self.frame[target.column].isna().any():
                place = int(np.flatnonzero(self.frame[target.column].isna())[0])
                remedy = "Leave the row out: what is to be predicted must be known."
                self._refuse(target.column, place, "a target", "nothing", remedy)
        if schema.kind == "classification":
            return self._classes(names[0])
        if schema.kind == "yes_or_no":
            y = np.stack([self._answers(target) for target in schema.targets], 1)
            return y.astype(np.float32), names, np.ones(len(names))
        y = np.stack([self.number(target.column) for target in schema.targets], 1)
        train = y[: self.num_train]
        sd = np.where(train.std(0) > 0, train.std(0), 1.0)
        return ((y - train.mean(0)) / sd).astype(np.float32), names, sd

    def label(self, columns: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
        """The values of a label, int (R,), and their names."""
        if len(columns) == 1:
            code_R, names = _sorted(*self.text(columns[0]), len(self.frame))
            return code_R, tuple(names)
        flag_RN = np.stack([self.number(column) for column in columns], 1) > 0
        code_R = np.where(flag_RN.any(1), flag_RN.argmax(1), len(columns))
        return code_R, (*columns, "none") if not flag_RN.any(1).all() else tuple(columns)

    def number(self, column: str) -> np.ndarray:
        """A column as float64 (R,), NaN where nothing is there.

        Raises:
            DataError: a cell holds something else.
        """
        code_R, words = self.words(column)
        value_V = np.array([_number(word) for word in words] + [np.nan])
        value_R = value_V[code_R]
        wrong_R = (code_R >= 0) & ~np.isfinite(value_R)
        if wrong_R.any():
            place = int(np.flatnonzero(wrong_R)[0])
            remedy = (
                "Name the column under categories, or say with data.missing what means that "
                "nothing is known."
            )
            self._refuse(column, place, "a number", repr(words[code_R[place]]), remedy)
        return value_R

    def words(self, column: str) -> tuple[np.ndarray, list[str]]:
        """A column as its different words, and the number of each cell's word, -1 for none: (R,).

        Few words and many cells: what is worked out is worked out of the words.
        """
        import pandas as pd

        found = pd.Categorical(self.frame[column])
        return found.codes.astype(np.int64), [str(word) for word in found.categories]

    def text(self, column: str) -> tuple[np.ndarray, list[str]]:
        """The same with a missing cell as a word of its own."""
        code_R, words = self.words(column)
        if MISSING not in words:
            words = [*words, MISSING]
        return np.where(code_R < 0, words.index(MISSING), code_R), words

    def _classes(self, column: str) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
        code_R, names = _sorted(*self.text(column), len(self.frame))
        remedy = "Leave the class out, join it with another, or add rows."
        once = np.flatnonzero(np.bincount(code_R) == 1)
        if len(once):
            place = int(np.flatnonzero(code_R == once[0])[0])
            found = f"{names[once[0]]!r} once"
            self._refuse(column, place, "every class twice or more", found, remedy)
        lost = np.setdiff1d(code_R, code_R[: self.num_train])
        if len(lost):
            place = int(np.flatnonzero(code_R == lost[0])[0])
            found = f"{names[lost[0]]!r} in others alone"
            self._refuse(column, place, "every class in some training row", found, remedy)
        return code_R, tuple(names), np.ones(1)

    def _answers(self, target: Target) -> np.ndarray:
        """1 for yes, 0 for no, (R,)."""
        code_R, words = self.words(target.column)
        if target.positive:
            answer_V = np.isin(words, target.positive).astype(float)
        else:
            answer_V = np.array([_YES_OR_NO.get(word.lower(), np.nan) for word in words])
        answer_R = answer_V[code_R]
        if np.isnan(answer_R).any():
            place = int(np.flatnonzero(np.isnan(answer_R))[0])
            remedy = (
                f"Say what means yes: target: {{{target.name}: {{column: {target.column}, "
                "positive: ...}}."
            )
            self._refuse(target.column, place, "yes or no", repr(words[code_R[place]]), remedy)
        answers = set(answer_R[: self.num_train])
        if len(answers) < 2:
            only = "yes" if 1.0 in answers else "no"
            remedy = f"The values of {target.column!r} are {', '.join(words[:_MOST_NAMES])}."
            expected = f"yes and no in the training rows for target {target.name!r}"
            raise data_error(self.path, expected, f"{only} alone", remedy)
        return answer_R

    def _refuse(self, column: str, place: int, expected: str, found: str, remedy: str) -> None:
        where = f"{expected} in column {column!r}"
        found = f"{found} in row {self.row_R[place] + 1}"
        raise data_error(self.path, where, found, f"{remedy} Rows count from 1, without a header.")


def _sorted(
    code_R: np.ndarray, words: Sequence[str], num_first: int
) -> tuple[np.ndarray, list[str]]:
    """Numbers along the sorted words of the first rows, their count for a word not there: int64."""
    seen = sorted(words[code] for code in np.unique(code_R[:num_first]))
    place = {word: number for number, word in enumerate(seen)}
    place_V = np.array([place.get(word, len(seen)) for word in words])
    return place_V[code_R], seen


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return float("nan")
