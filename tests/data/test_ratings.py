"""Ratings: splits by time, ids, cold users, both forms of files, simple models by hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hmoe.config import build, compose
from hmoe.data import Ratings, baselines
from hmoe.data.rating_table import damped_means, split_by_time
from hmoe.data.splits import unit_hash
from hmoe.errors import ConfigError, DataError
from tests.made import made_sets, write_set

FILMS = [(10, "Action|Drama"), (20, "Drama"), (30, ""), (40, "Comedy")]
RATED = [
    *((1, 10, 5.0, 3), (1, 20, 3.0, 1), (1, 30, 4.0, 2), (1, 40, 1.0, 9), (1, 50, 2.0, 5)),
    *((2, 20, 1.0, 1), (2, 10, 2.0, 2), (2, 30, 5.0, 3), (2, 50, 4.0, 4), (2, 40, 3.0, 5)),
]


def write_csv(folder: Path) -> Path:
    films = [*FILMS, (50, "Comedy")]
    rows = [f"{u},{f},{r},{t}" for u, f, r, t in RATED]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *rows]))
    named = [f'{f},"A, film",{g or "(no genres listed)"}' for f, g in films]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *named]))
    return folder


def write_dat(folder: Path) -> Path:
    films = [*FILMS, (50, "Comedy")]
    rows = [f"{u}::{f}::{int(r)}::{t}" for u, f, r, t in RATED]
    (folder / "ratings.dat").write_text("\n".join(rows))
    named = [f"{f}::Amélie, a film::{g or '(no genres listed)'}" for f, g in films]
    (folder / "movies.dat").write_text("\n".join(named), encoding="latin-1")
    return folder


def ratings(folder: Path, **changes: Any) -> Ratings:
    shares = {"val_share": 0.2, "test_share": 0.2, "cold_share": 1e-9}
    options = {"root": str(folder), "known": None, "batch_size": 2, "seed": 0}
    return Ratings(**{**shares, **options, **changes})


def whole(data: Ratings, split: Any) -> dict[str, torch.Tensor]:
    batches = list(data.pass_over(split))
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


# ------------------------------------------------------------------ by hand


def test_the_last_of_every_user_are_the_test_and_those_before_validate() -> None:
    rows = split_by_time(
        np.array([0] * 10 + [1] * 3), np.array([False, False]), val_share=0.1, test_share=0.2
    )
    # Two of ten and, rounded up, one of three; one of each before.
    assert rows["test"].tolist() == [8, 9, 12]
    assert rows["val"].tolist() == [7, 11]
    assert rows["train"].tolist() == [0, 1, 2, 3, 4, 5, 6, 10]


def test_a_cold_user_has_no_training_rows_and_all_others() -> None:
    rows = split_by_time(
        np.array([0] * 5 + [1] * 5), np.array([True, False]), val_share=0.2, test_share=0.2
    )
    assert rows["train"].tolist() == [5, 6, 7]
    assert rows["val"].tolist() == [3, 8]
    assert rows["test"].tolist() == [4, 9]


@pytest.mark.parametrize("write", [write_csv, write_dat])
def test_ids_and_centred_ratings_by_hand(write: Any, tmp_path: Path) -> None:
    data = ratings(write(tmp_path))
    data.setup()
    # By time user 1 trains on the films 20, 30, 10, user 2 on 20, 10, 30: the mean is 20 / 6.
    # Ids: users 1, 2; films 10, 20, 30 are 3, 4, 5, the others 0; Action 6, Comedy 7, Drama 8.
    assert data.in_dim == 9
    test = whole(data, "test")
    assert test["x"].tolist() == [[1, 0, 7, 0], [2, 0, 7, 0]]
    assert test["rating"].tolist() == [1.0, 3.0]
    assert test["y"][:, 0].tolist() == pytest.approx([1 - 20 / 6, 3 - 20 / 6])
    assert test["user"].tolist() == [0, 1]
    assert test["cold"].tolist() == [False, False]
    train = whole(data, "train")
    assert train["x"].tolist() == [
        *([1, 4, 8, 0], [1, 5, 0, 0], [1, 3, 6, 8]),
        *([2, 4, 8, 0], [2, 3, 6, 8], [2, 5, 0, 0]),
    ]
    assert train["y"].sum().item() == pytest.approx(0, abs=1e-5)


def test_both_forms_of_files_have_one_digest(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    (tmp_path / "dat").mkdir()
    assert (
        ratings(write_csv(tmp_path / "csv")).digest == ratings(write_dat(tmp_path / "dat")).digest
    )


def test_damped_means_by_hand() -> None:
    found = damped_means(np.array([1.0, 3.0, 6.0]), np.array([0, 0, 2]), 3, 2.0)
    assert found.tolist() == [1.0, 0.0, 2.0]


def test_simple_models_by_hand(tmp_path: Path) -> None:
    data = ratings(write_csv(tmp_path))
    mean, both = data.biases(damping=1.0)
    assert mean.tolist() == pytest.approx([20 / 6] * 2)
    # Test films have no training rows. Film differences, one rating of 0 added: film 20 (3 and 1)
    # -8/3/3, film 30 (4 and 5) 7/3/3, film 10 (5 and 2) 1/3/3.
    film = {20: -8 / 9, 30: 7 / 9, 10: 1 / 9}
    first = sum(r - 20 / 6 - film[f] for f, r in ((20, 3), (30, 4), (10, 5))) / 4
    second = sum(r - 20 / 6 - film[f] for f, r in ((20, 1), (10, 2), (30, 5))) / 4
    assert both.tolist() == pytest.approx([20 / 6 + first, 20 / 6 + second])
    scores = baselines(data)
    expected = np.sqrt(((1 - 20 / 6) ** 2 + (3 - 20 / 6) ** 2) / 2)
    assert scores["mean/rmse"] == pytest.approx(expected)
    assert set(scores) == {
        f"{model}/{score}{of}"
        for model in ("mean", "damped_bias")
        for score in ("rmse", "ndcg")
        for of in ("", "/warm")
    }


def test_a_taste_is_the_genre_that_is_rated_more_often_than_by_all(tmp_path: Path) -> None:
    """User 2 trains on Drama twice, user 1 on Action, Comedy and Drama."""
    folder = write_csv(tmp_path)
    text = (folder / "ratings.csv").read_text().replace("1,20,3.0,1", "1,40,3.0,1")
    text = text.replace("1,40,1.0,9", "1,20,1.0,9").replace("2,10,2.0,2", "2,20,2.0,2")
    (folder / "ratings.csv").write_text(text)
    data = ratings(folder)
    data.setup()
    labels = data.labels(whole(data, "test"))
    names = data.label_names["taste"]
    assert [names[n] for n in labels["taste"]] == ["Action", "Drama"]


# ------------------------------------------------------------------ cold users


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Path]:
    with made_sets():
        yield write_set("movielens_latest_small", tmp_path)


def test_cold_users_are_told_by_the_hash_of_their_number_and_have_no_id(made: Path) -> None:
    cfg = compose(["data=movielens_latest_small", f"data.root={made}", "data.batch_size=4"])
    cfg.data.cold_share = 0.3
    data: Ratings = build(cfg.data)
    data.setup()
    cold = {user for user in range(12) if unit_hash(np.array([user + 1]))[0] < 0.3}
    assert cold
    test = whole(data, "test")
    assert {int(u) for u in test["user"][test["cold"]]} == cold
    assert test["x"][test["cold"], 0].unique().tolist() == [0]
    assert (test["x"][~test["cold"], 0] > 0).all()
    assert not whole(data, "train")["cold"].any()
    assert not cold & {int(u) for u in whole(data, "train")["user"]}
    activity = data.labels(test)["activity"]
    assert ((activity == 0) == test["cold"]).all()


def test_rows_hang_together_by_their_user_of_whom_all_labels_are(made: Path) -> None:
    data = ratings(made)
    batch = whole(data, "val")
    for value_T in data.labels(batch).values():
        pairs = set(zip(batch[data.row_group].tolist(), value_T.tolist(), strict=True))
        assert len(pairs) == len(batch[data.row_group].unique())


def test_known_ratings_are_compared_and_others_say_that_they_are_not(made: Path) -> None:
    assert ratings(made, known="movielens_latest_small").notes == ()
    assert "not compared with any digest" in ratings(made).notes[0]
    (made / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,1.0,1\n")
    with pytest.raises(DataError, match="expected sha256"):
        ratings(made, known="movielens_latest_small").setup()


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("name", ["ml-1m", "letter"])
def test_a_set_that_is_not_known_or_has_no_ratings_is_refused(name: str, tmp_path: Path) -> None:
    message = f"data.known = {name}: must be null, or one of movielens_latest_small."
    with pytest.raises(ConfigError, match=message):
        ratings(tmp_path, known=name)
    with pytest.raises(ConfigError, match="Did you mean 'movielens_latest_small'"):
        ratings(tmp_path, known="movielens_small")


def test_a_folder_without_ratings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ratings\.dat: expected a whole file"):
        ratings(tmp_path).setup()


def test_a_rating_of_an_unknown_film_is_refused(tmp_path: Path) -> None:
    folder = write_csv(tmp_path)
    text = (folder / "ratings.csv").read_text().replace("1,30,", "1,31,")
    (folder / "ratings.csv").write_text(text)
    with pytest.raises(DataError, match=r"found film 31 in row 3\. Take both from one edition"):
        ratings(folder).setup()


def test_a_rating_that_is_no_number_is_refused(tmp_path: Path) -> None:
    folder = write_csv(tmp_path)
    text = (folder / "ratings.csv").read_text().replace("1,30,4.0", "1,30,good")
    (folder / "ratings.csv").write_text(text)
    with pytest.raises(DataError, match="expected users, films, ratings and times, found"):
        ratings(folder).setup()
