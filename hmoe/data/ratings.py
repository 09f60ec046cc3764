"""Ratings: who liked which film how much, as MovieLens has it; two forms of files, one loader.

    ratings.csv, movies.csv   of ml-latest-small and ml-32m, comma-separated with a header
    ratings.dat, movies.dat   of ml-1m, separated by ::, latin-1, no header

A rating and its film, from ml-latest-small:

    1,1,4.0,964982703        1,Toy Story (1995),Adventure|Animation|Children|Comedy|Fantasy

A row is ids into one table of embeddings: the user's, the film's, and those of its genres, as many
columns as any film has, filled with 0. An id is 0 where there is none, and for users and films that
no training row has. Targets are ratings less their mean over the training rows.

Within every user the last ratings by time are the test rows, those before them the validation rows.
A share of the users, by a hash of their number, is cold: their training rows are left out, so that
scores of users can be told of whom nothing is known. (Harper & Konstan 2015.)

Letters: R ratings, F films, G genres, U users; B rows of a batch.
"""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hmoe.data.archives import read_packed
from hmoe.data.checks import check_root, check_shares, data_error
from hmoe.data.known_sets import KNOWN_SETS
from hmoe.data.loader import SPLITS, Batch, Split
from hmoe.data.rating_table import ACTIVITY, RatingTable, damped_means, make_table
from hmoe.data.rows import RowData
from hmoe.errors import ConfigError, nearest

PLACES = 10
"""Of a user's test ratings, ordered by what is predicted, the first so many count."""

_CSV, _DAT = ("ratings.csv", "movies.csv"), ("ratings.dat", "movies.dat")
_MOST_BYTES = 2**31  # of a file whose digest nobody knows


class Ratings(RowData):
    """Ratings as ids: x int64 (B, 2 + genres of a film), y float32 (B, 1).

    A batch also has "rating" as it was given, "user" the user's number, and "cold", (B,) each.

    Args:
        root: the folder with the files.
        known: name of the known set that they are compared with; None: they are not compared with
            any digest.
        val_share, test_share: of every user's ratings, rounded up.
        cold_share: of the users.
        batch_size, seed: see `RowData`.

    Raises:
        ConfigError: no root, no known set of ratings, shares that do not fit.
        DataError: a file is missing, is not the published one, or is not of this form.
    """

    input_kind = "fields"
    task = "rating"
    out_dim = 1
    domain_labels = ("activity", "taste")
    row_group = "user"

    def __init__(
        self,
        *,
        root: str | None,
        known: str | None,
        val_share: float,
        test_share: float,
        cold_share: float,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        check_shares(val_share=val_share, test_share=test_share)
        check_shares(cold_share=cold_share)
        of_ratings = [
            name
            for name, one in KNOWN_SETS.items()
            if set(_CSV) <= {file.name for file in one.files}
        ]
        if known is not None and known not in of_ratings:
            raise ConfigError(
                f"data.known = {known}: must be null, or one of {', '.join(of_ratings)}."
                f"{nearest(known, of_ratings)}"
            )
        self._known = known
        wanted = f"a folder with {' and '.join(_CSV)}, or {' and '.join(_DAT)}"
        known_root = root is not None and known is not None
        self._root = Path(str(root)).expanduser() if known_root else check_root(root, wanted)
        if known is None:
            self.notes = ("the files of the data were not compared with any digest",)
        self._shares = {"val": val_share, "test": test_share, "cold": cold_share}

    @property
    def in_dim(self) -> int:
        """Ids, 0 among them."""
        return self._table.num_ids

    @property
    def domain_names(self) -> tuple[tuple[str, ...], ...]:  # type: ignore[override]
        """How much a user rated, and the genre that he rates more often than others do."""
        return ACTIVITY, ("none", *self._table.genres)

    @property
    def digest(self) -> str:
        """As of every set of rows, and of the genres of the films."""
        tags = self._table.tag_FG.astype("<i4").tobytes()
        return hashlib.sha256(super().digest.encode() + tags).hexdigest()

    @cached_property
    def _table(self) -> RatingTable:
        rated, films, path = self._read()
        return make_table(rated, films, self._shares, path)

    def _load(self) -> Mapping[Split, tuple[np.ndarray, np.ndarray]]:
        table = self._table
        taste = torch.from_numpy(table.taste_U)
        loaded = {}
        for split in SPLITS:
            rows = table.rows[split]
            users = torch.from_numpy(table.user_R[rows])
            self._domains[split] = taste[users]
            x = np.stack([table.user_R[rows], table.film_R[rows]], 1).astype(np.int32)
            loaded[split] = x, table.rating_R[rows, None].astype(np.float32)
        return loaded

    def _batch(self, split: Split, rows: Tensor) -> Batch:
        batch = super()._batch(split, rows)
        table = self._table
        user, film = batch["x"].long().unbind(1)
        ids = [table.user_id_U[user], table.film_id_F[film]]
        x = np.concatenate([np.stack(ids, 1), table.tag_FG[film]], 1)
        rating = batch["y"][:, 0]
        return {
            **batch,
            "x": torch.from_numpy(x),
            "y": batch["y"] - table.mean,
            "rating": rating,
            "user": user,
            "cold": torch.from_numpy(table.user_id_U[user] == 0),
        }

    def biases(self, damping: float) -> tuple[np.ndarray, np.ndarray]:
        """Predictions for the test rows: the mean, and the mean with what films and users differ.

        A film differs by the mean of its ratings' distance from the mean, with `damping` ratings of
        distance 0 added, a user by what then is left of his, likewise (Koren et al. 2009).
        """
        table, train, test = self._table, self._table.rows["train"], self._table.rows["test"]
        left_R = table.rating_R[train] - table.mean
        film_F = damped_means(left_R, table.film_R[train], len(table.film_id_F), damping)
        left_R = left_R - film_F[table.film_R[train]]
        user_U = damped_means(left_R, table.user_R[train], len(table.user_id_U), damping)
        both = table.mean + film_F[table.film_R[test]] + user_U[table.user_R[test]]
        return np.full(len(test), table.mean), both

    def answers(self, split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ratings, numbers of the users, and whether these are cold, of a split: (R,) each."""
        table, rows = self._table, self._table.rows[split]
        user_R = table.user_R[rows]
        return table.rating_R[rows], user_R, table.user_id_U[user_R] == 0

    def _read(self) -> tuple[Any, Any, Path]:
        """Ratings (user, film, rating, time) and films (film, genres) as frames of pandas."""
        import pandas as pd

        if self._known is not None:
            known = KNOWN_SETS[self._known]
            ratings, films = (known.read(self._root, name) for name in _CSV)
            is_csv = True
        else:
            is_csv = (self._root / _CSV[0]).is_file()
            ratings, films = (
                read_packed(self._root / name, most=_MOST_BYTES)
                for name in (_CSV if is_csv else _DAT)
            )
        path = self._root / (_CSV if is_csv else _DAT)[0]
        try:
            if is_csv:
                rated = pd.read_csv(BytesIO(ratings))
                rated.columns = ["user", "film", "rating", "time"]
                film = pd.read_csv(BytesIO(films), usecols=["movieId", "genres"])
                film.columns = ["film", "genres"]
            else:
                text = BytesIO(ratings.replace(b"::", b","))
                rated = pd.read_csv(text, header=None, names=["user", "film", "rating", "time"])
                lines = [line.split("::") for line in films.decode("latin-1").splitlines() if line]
                parts = {"film": [int(cells[0]) for cells in lines]}
                film = pd.DataFrame({**parts, "genres": [cells[-1] for cells in lines]})
            rated["rating"] = rated["rating"].astype(float)
            rated[["user", "film", "time"]] = rated[["user", "film", "time"]].astype(np.int64)
        except (ValueError, IndexError) as error:
            remedy = "Copy the file anew from where you have it."
            expected = "users, films, ratings and times"
            raise data_error(path, expected, str(error).splitlines()[0], remedy) from error
        strange = ~rated["film"].isin(film["film"])
        if strange.any():
            row = int(np.flatnonzero(strange)[0]) + 1
            found = f"film {rated['film'].iloc[row - 1]} in row {row}"
            raise data_error(path, "films of the other file", found, "Take both from one edition.")
        return rated, film, path
