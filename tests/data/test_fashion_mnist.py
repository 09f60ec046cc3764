"""FashionMnist: the published files by digest, superclasses above classes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hmoe.data import FashionMnist
from hmoe.data.fashion_mnist import CLASSES, SUPERCLASSES
from hmoe.errors import DataError
from tests.made import made_sets, write_set


def make(root: Path | str, **changes: Any) -> FashionMnist:
    given: dict[str, Any] = {"root": str(root), "batch_size": 4, "seed": 0, "val_share": 0.5}
    return FashionMnist(**(given | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with made_sets():
        yield write_set("fashion_mnist", tmp_path)


def test_every_class_has_one_superclass() -> None:
    below = [name for names in SUPERCLASSES.values() for name in names]
    assert sorted(below) == sorted(CLASSES)


def test_labels_go_from_coarse_to_fine(folder: Path) -> None:
    data = make(folder)
    assert data.label_names == {
        "superclass": ("tops", "trouser", "footwear", "bag"),
        "class": CLASSES,
    }
    batches = list(data.test_dataloader())
    labels = [data.labels(batch) for batch in batches]
    # t_shirt trouser pullover dress coat sandal shirt sneaker bag ankle_boot, in this order
    assert torch.cat([each["class"] for each in labels]).tolist() == list(range(10))
    found = torch.cat([each["superclass"] for each in labels]).tolist()
    assert found == [0, 1, 0, 0, 0, 2, 0, 2, 3, 2]


def test_sizes_are_known_without_a_look_at_files() -> None:
    data = make("nowhere")
    assert (data.in_dim, data.out_dim) == (784, 10)


def test_pictures_are_vectors_of_28_by_28(folder: Path) -> None:
    data = make(folder)
    assert data.train_batch(0)["x"].shape == (4, 784)
    assert sum(len(batch["y"]) for batch in data.val_dataloader()) == 50
    assert data.train_batch(0)["x"].abs().max() <= 1


def test_a_file_that_was_changed_is_refused(folder: Path) -> None:
    path = folder / "train-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"train-labels.*expected sha256 .*hmoe fetch fashion_mnist"
    ):
        make(folder).setup()


def test_a_missing_set_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing there.*hmoe fetch fashion_mnist"):
        make(tmp_path).setup()


REPOSITORY = Path(__file__).parents[2]
FASHION = Path(os.environ.get("HMOE_DATA", REPOSITORY / "../shared/data")) / "fashion_mnist"


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Fashion-MNIST below $HMOE_DATA")
def test_the_published_set_is_read_and_labelled_right() -> None:
    data = make(FASHION, batch_size=10_000, val_share=0.1)
    train, (val,), (test,) = data.train_batch(0), data.val_dataloader(), data.test_dataloader()
    assert (len(val["y"]), len(test["y"])) == (6000, 10_000)
    assert test["y"].bincount().tolist() == [1000] * 10
    assert test["domain"][:, 0].bincount().tolist() == [5000, 1000, 3000, 1000]
    assert test["y"][:6].tolist() == [9, 2, 1, 1, 6, 1]  # ankle boot, pullover, trouser, ...
    # Nearest class mean is right on two images in three; by chance it would be on one in ten.
    means = torch.stack([train["x"][train["y"] == label].mean(0) for label in range(10)])
    assert (torch.cdist(test["x"], means).argmin(1) == test["y"]).float().mean() > 0.6
