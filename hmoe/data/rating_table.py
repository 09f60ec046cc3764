"""Ratings as arrays: who is cold, which rows are whose, ids of users, films and genres.

Letters: R ratings, F films, G genres of a film, U users.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hmoe.data.checks import data_error
from hmoe.data.loader import SPLITS, Split
from hmoe.data.splits import unit_hash

NO_GENRE = "(no genres listed)"
ACTIVITY = ("cold", "fewest", "fewer", "more", "most")
"""Quarters of the users that have training rows, by how many these are."""


@dataclass(frozen=True)
class RatingTable:
    """Ratings by user and time.

    Attributes:
        user_R, film_R: numbers from 0, along the sorted ids of the files.
        rating_R: as given.
        rows: split -> ascending places in these; rows of cold users are in no train split.
        user_id_U, film_id_F: ids of embeddings, 0 for one without training rows.
        tag_FG: ids of the genres of every film, filled up with 0.
        genres: names of genres.
        taste_U: of every user the place in `ACTIVITY`, and 0 or 1 + his genre: int64 (U, 2).
        mean: of the training ratings.
        num_ids: ids, 0 among them.
    """

    user_R: np.ndarray
    film_R: np.ndarray
    rating_R: np.ndarray
    rows: Mapping[Split, np.ndarray]
    user_id_U: np.ndarray
    film_id_F: np.ndarray
    tag_FG: np.ndarray
    genres: tuple[str, ...]
    taste_U: np.ndarray
    mean: float
    num_ids: int


def make_table(rated: Any, films: Any, shares: Mapping[str, float], path: Path) -> RatingTable:
    """Split ratings and number all ids.

    Args:
        rated: frame with user, film, rating, time.
        films: frame with film, genres, joined by |.
        shares: of val and test among every user's ratings, of cold among users.
        path: for messages.

    Raises:
        DataError: a split has no row.
    """
    rated = rated.sort_values(["user", "time", "film"], kind="stable")
    ids_U, user_R = np.unique(rated["user"].to_numpy(), return_inverse=True)
    films = films.sort_values("film")
    film_R = np.searchsorted(films["film"].to_numpy(), rated["film"].to_numpy())
    cold_U = unit_hash(ids_U) < shares["cold"]
    rows = split_by_time(user_R, cold_U, val_share=shares["val"], test_share=shares["test"])
    for split in SPLITS:
        if not len(rows[split]):
            raise data_error(path, f"ratings for {split}", "none", "Give more ratings.")
    train = rows["train"]
    rating_R = rated["rating"].to_numpy(float)
    user_id_U, after = _ids(user_R[train], len(ids_U), 1)
    film_id_F, after = _ids(film_R[train], len(films), after)
    said_F = [[g for g in said.split("|") if g != NO_GENRE] for said in films["genres"]]
    genres = tuple(sorted({genre for said in said_F for genre in said}))
    tag_FG = np.zeros((len(films), max(1, *(len(said) for said in said_F))), dtype=np.int64)
    for film, said in enumerate(said_F):
        tag_FG[film, : len(said)] = [after + genres.index(genre) for genre in said]
    taste_U = _tastes(user_R[train], tag_FG[film_R[train]] - after, len(ids_U), len(genres))
    return RatingTable(
        user_R=user_R.astype(np.int64),
        film_R=film_R.astype(np.int64),
        rating_R=rating_R,
        rows=rows,
        user_id_U=user_id_U,
        film_id_F=film_id_F,
        tag_FG=tag_FG,
        genres=genres,
        taste_U=taste_U,
        mean=float(rating_R[train].mean()),
        num_ids=after + len(genres),
    )


def split_by_time(
    user_R: np.ndarray, cold_U: np.ndarray, *, val_share: float, test_share: float
) -> dict[Split, np.ndarray]:
    """The last ratings of every user are for the test, those before them for validation.

    Args:
        user_R: numbers of users, ascending, a user's ratings by time.
        cold_U: users whose other ratings are left out.
        val_share, test_share: of a user's ratings, rounded up.
    """
    count_U = np.bincount(user_R, minlength=len(cold_U))
    place_R = np.arange(len(user_R)) - (np.cumsum(count_U) - count_U)[user_R]
    # 0.2 * 10 is 2, not a little more.
    num_test_U, num_val_U = (
        np.ceil(share * count_U - 1e-9).astype(int) for share in (test_share, val_share)
    )
    left_R = (count_U[user_R] - 1) - place_R  # ratings that come after
    test_R = left_R < num_test_U[user_R]
    val_R = ~test_R & (left_R < (num_test_U + num_val_U)[user_R])
    train_R = ~test_R & ~val_R & ~cold_U[user_R]
    parts: dict[Split, np.ndarray] = {"train": train_R, "val": val_R, "test": test_R}
    return {split: np.flatnonzero(part_R) for split, part_R in parts.items()}


def damped_means(value_R: np.ndarray, of_R: np.ndarray, size: int, damping: float) -> np.ndarray:
    """The mean of the values of each number, with `damping` values of 0 added: (size,)."""
    count = np.bincount(of_R, minlength=size)
    means: np.ndarray = np.bincount(of_R, value_R, size) / np.maximum(count + damping, 1e-9)
    return means


def _ids(number_R: np.ndarray, size: int, first: int) -> tuple[np.ndarray, int]:
    """Ids from `first` on for the numbers that occur, 0 for the others, and the next free id."""
    seen = np.bincount(number_R, minlength=size) > 0
    return np.where(seen, np.cumsum(seen) - 1 + first, 0), first + int(seen.sum())


def _tastes(
    user_R: np.ndarray, genre_RG: np.ndarray, num_users: int, num_genres: int
) -> np.ndarray:
    """How much every user rated, and the genre that he rates more often than all users do.

    More often: by the largest difference of its shares among genres. int64 (U, 2).
    """
    count_U = np.bincount(user_R, minlength=num_users)
    quarters = np.quantile(count_U[count_U > 0], (0.25, 0.5, 0.75))
    activity_U = np.where(count_U > 0, 1 + np.searchsorted(quarters, count_U), 0)
    place_R, column_R = np.nonzero(genre_RG >= 0)
    cell_R = user_R[place_R] * num_genres + genre_RG[place_R, column_R]
    count_UG = np.bincount(cell_R, minlength=num_users * num_genres).reshape(num_users, -1)
    share_UG = count_UG / np.maximum(count_UG.sum(1, keepdims=True), 1)
    share_G = count_UG.sum(0) / max(1, count_UG.sum())
    taste_U = np.where(count_UG.any(1), 1 + (share_UG - share_G).argmax(1), 0)
    return np.stack([activity_U, taste_U], 1).astype(np.int64)
