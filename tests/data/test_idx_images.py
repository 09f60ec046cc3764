"""IdxImages: a set of 2 x 2 images written byte by byte, everything that may be wrong with one."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hmoe.data import IdxImages
from hmoe.errors import ConfigError, DataError

# Four training images and two for the test; label 0 is dark, label 1 is bright.
FILES = {
    "train-images-idx3-ubyte": struct.pack(">4I", 0x803, 4, 2, 2)
    + bytes([0, 0, 0, 51, 255, 255, 255, 204, 0, 0, 51, 0, 255, 255, 204, 255]),
    "train-labels-idx1-ubyte": struct.pack(">2I", 0x801, 4) + bytes([0, 1, 0, 1]),
    "t10k-images-idx3-ubyte": struct.pack(">4I", 0x803, 2, 2, 2)
    + bytes([255, 204, 255, 255, 0, 51, 0, 0]),
    "t10k-labels-idx1-ubyte": struct.pack(">2I", 0x801, 2) + bytes([1, 0]),
}


def write(root: Path, **changes: bytes) -> Path:
    for name, content in (FILES | {k.replace("_", "-"): v for k, v in changes.items()}).items():
        (root / name).write_bytes(content)
    return root


def make(folder: Path, **changes: Any) -> IdxImages:
    given: dict[str, Any] = {
        "root": str(folder),
        "batch_size": 2,
        "seed": 0,
        "val_share": 0.5,
        "class_names": None,
    }
    return IdxImages(**(given | changes))


def test_classes_have_names_or_numbers(tmp_path: Path) -> None:
    root = write(tmp_path)
    assert make(root).label_names == {"class": ("0", "1")}
    assert make(root, class_names=["dark", "bright"]).label_names == {"class": ("dark", "bright")}
    with pytest.raises(ConfigError, match=r"class_names=\['dark'\]: 1 names given, 2 expected"):
        assert make(root, class_names=["dark"]).out_dim


def test_a_set_of_2_by_2_images_is_read_as_written(tmp_path: Path) -> None:
    data = make(write(tmp_path))
    (batch,) = data.test_dataloader()
    # Pixels p become 2 p / 255 - 1: 0, 51, 204, 255 are -1, -0.6, 0.6, 1.
    expected = torch.tensor([[1, 0.6, 1, 1], [-1, -0.6, -1, -1]])
    torch.testing.assert_close(batch["x"], expected)
    assert batch["y"].tolist() == [1, 0]
    assert (batch["x"].dtype, batch["y"].dtype) == (torch.float32, torch.int64)


def test_validation_is_carved_from_the_training_images(tmp_path: Path) -> None:
    data = make(write(tmp_path))
    train, (val,) = data.train_batch(0), data.val_dataloader()
    assert sorted(train["y"].tolist()) == sorted(val["y"].tolist()) == [0, 1]
    raw = torch.tensor(list(FILES["train-images-idx3-ubyte"][16:])).reshape(4, 4)
    both = torch.cat([train["x"], val["x"]])
    torch.testing.assert_close(both.sort(0).values, (raw * 2 / 255 - 1).sort(0).values)


def test_dimensions_are_known_from_the_headers_alone(tmp_path: Path) -> None:
    header = FILES["train-images-idx3-ubyte"][:16]
    data = make(write(tmp_path, train_images_idx3_ubyte=header))
    assert (data.in_dim, data.out_dim) == (4, 2)


def test_gzipped_and_plain_files_are_the_same_set(tmp_path: Path) -> None:
    plain = make(write(tmp_path)).digest
    for name in FILES:
        path = tmp_path / name
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert make(tmp_path).digest == plain


@pytest.mark.parametrize("name", sorted(FILES))
def test_digest_changes_with_any_file(tmp_path: Path, name: str) -> None:
    before = make(write(tmp_path)).digest
    content = bytearray(FILES[name])
    if "labels" in name:
        content[-2:] = content[:-3:-1]  # swap the last two labels
    else:
        content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    assert make(tmp_path).digest != before


IMAGES, LABELS = FILES["train-images-idx3-ubyte"], FILES["train-labels-idx1-ubyte"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images_idx3_ubyte": IMAGES[:-3]}, r"train-images.*expected 16 bytes.*found 13"),
        ({"train_images_idx3_ubyte": IMAGES + b"\0"}, r"expected 16 bytes.*found 17"),
        ({"train_images_idx3_ubyte": IMAGES[:9]}, r"expected a header of 16 bytes, found 9 bytes"),
        ({"train_images_idx3_ubyte": LABELS + bytes(8)}, r"expected magic 2051, found magic 2049"),
        (
            {"train_images_idx3_ubyte": gzip.compress(IMAGES)},  # begins 1f 8b 08 00
            r"expected magic 2051, found magic 529205248\. Give the unpacked idx file",
        ),
        (
            {"train_images_idx3_ubyte": struct.pack(">4I", 0x803, 0, 2, 2)},
            r"expected at least one value, found dimensions \[0, 2, 2\]",
        ),
        (
            {"train_labels_idx1_ubyte": struct.pack(">2I", 0x801, 3) + bytes([0, 1, 0])},
            r"train-images-idx3-ubyte: expected 3 images, one a label, found 4",
        ),
        (
            {"t10k_labels_idx1_ubyte": struct.pack(">2I", 0x801, 2) + bytes([1, 2])},
            r"expected labels below 2, as in the training labels, found label 2",
        ),
        (
            {"t10k_images_idx3_ubyte": struct.pack(">4I", 0x803, 2, 1, 2) + bytes(4)},
            r"t10k-images.*expected 4 pixels an image.*found 2",
        ),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, changes: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(write(tmp_path, **changes)).setup()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda packed: packed[:-9],
            r"expected a whole gzip file, found Compressed file ended.* It is damaged",
        ),
        (lambda packed: b"\x03\x08" + packed[2:], r"expected a whole gzip file, found Not a gzip"),
        (lambda packed: packed[:-8] + bytes(8), r"expected a whole gzip file, found CRC check"),
    ],
)
def test_damaged_gzip_files_are_named(
    tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    name = "t10k-images-idx3-ubyte"
    (write(tmp_path) / name).unlink()
    (tmp_path / f"{name}.gz").write_bytes(damage(gzip.compress(FILES[name])))
    with pytest.raises(DataError, match=rf"{name}\.gz: {message}"):
        make(tmp_path).setup()


def test_a_missing_file_says_where_to_put_it(tmp_path: Path) -> None:
    (write(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte: expected an idx file.*Put the"):
        make(tmp_path).setup()


def test_a_root_is_required_and_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.root=null: must name a folder with train-images"):
        make(tmp_path, root=None)
    with pytest.raises(DataError, match=r"nowhere: expected a folder.*found nothing there"):
        make(tmp_path / "nowhere")


def test_a_share_of_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.val_share=1: must be"):
        make(tmp_path, val_share=1)
