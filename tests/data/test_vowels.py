"""The vowels: rows by hand, speakers apart, what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hmoe.data import Vowels
from hmoe.data.vowels import read_vowels, split_speakers
from hmoe.errors import ConfigError, DataError
from tests.made import made_sets, write_set


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with made_sets():
        yield write_set("vowel_peterson_barney", tmp_path_factory.mktemp("sets"))


def make(root: Path, **changes: Any) -> Vowels:
    options = {"batch_size": 8, "seed": 0, "vowels": ["i", "A"], "features": ["f1", "f2"]}
    return Vowels(root=str(root), **(options | changes))


def test_rows_by_hand(root: Path) -> None:
    """Of speaker 1, in the made file: i has formants 301 and 2000, A 501 and 1600."""
    x, y, speaker = read_vowels(root, ["A", "i"], ["f2", "f1"])
    assert x[:2].tolist() == [[2000, 301], [1600, 501]]
    assert y[:2].tolist() == [1, 0]
    assert speaker[:2].tolist() == [1, 1]
    assert len(x) == 76 * 2


def test_speakers_are_split_and_never_shared() -> None:
    speaker = np.repeat(np.arange(1, 77), 3)
    train, test = split_speakers(speaker, 50, 25)
    own, other = set(speaker[train]), set(speaker[test])
    assert (len(own), len(other), len(own & other)) == (50, 25, 0)
    assert train.sum() == 150
    again, val, last = split_speakers(speaker, 40, 10, 25)
    assert set(speaker[again]) | set(speaker[val]) == own
    assert (last == test).all()


def test_the_splits_and_their_scale(root: Path) -> None:
    data = make(root)
    data.setup()
    rows = {
        split: torch.cat([b["x"] for b in data.pass_over(split)])
        for split in ("train", "val", "test")
    }
    assert {split: len(x) for split, x in rows.items()} == {"train": 80, "val": 20, "test": 50}
    torch.testing.assert_close(rows["train"].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows["train"].std(0, correction=0), torch.ones(2))
    assert data.label_names["class"] == ("i", "A")
    assert (data.in_dim, data.out_dim) == (2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vowels": ["i", "a"]}, r"data\.vowels = a: must be one of i, I, .*"),
        ({"vowels": ["i"]}, r"data\.vowels = \['i'\]: needs 2 or more"),
        ({"features": ["f1", "f1"]}, r"data\.features = .* none twice"),
        ({"features": []}, r"data\.features = \[\]: needs 1 or more"),
    ],
)
def test_choices_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(Path(), **changes)


def test_another_file_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "pb52.csv").write_text("type,sex\n")
    with pytest.raises(DataError, match="expected sha256"):
        make(tmp_path).setup()
