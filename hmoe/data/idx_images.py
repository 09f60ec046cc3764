"""IdxImages: images in the idx format of MNIST, such as MNIST, KMNIST.

Four files, plain or gzipped, in one folder; nothing is fetched:

    train-images-idx3-ubyte[.gz]   train-labels-idx1-ubyte[.gz]
    t10k-images-idx3-ubyte[.gz]    t10k-labels-idx1-ubyte[.gz]

A file is a header of big-endian 32-bit numbers, then one byte a pixel or label. Fashion-MNIST's
training images and labels begin

    00000803 0000ea60 0000001c 0000001c | 00 00 00 00 ..    magic 2051, 60000 of 28 x 28
    00000801 0000ea60                   | 09 00 00 03 ..    magic 2049, 60000

The magic's third byte is the type (8: unsigned byte), the fourth the number of dimensions. Format:
LeCun, Cortes and Burges, the MNIST page, 1998.
"""

import gzip
import math
import struct
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from hmoe.data.checks import check_root, check_shares, data_error
from hmoe.data.loader import Split
from hmoe.data.pixels import Images, PixelData, stratified_split
from hmoe.errors import ConfigError

UNSIGNED_BYTE = 8
REMEDY = "It is damaged, or another edition: copy it anew from where you have the set."


class IdxData(PixelData):
    """Images of four idx files, wherever they are: x float32 (B, pixels) in [-1, 1], y int64 (B,).

    The t10k files are the test split; validation is taken from the training files. A set adds
    `_open`, and may say in_dim and out_dim without a look into the files.
    """

    white = 255

    def __init__(
        self, *, batch_size: int, seed: int, val_share: float, class_names: Sequence[str] | None
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        check_shares(val_share=val_share)
        self._class_names = class_names
        self._val_share = val_share

    @abstractmethod
    def _open(self, name: str) -> tuple[Path, BinaryIO]:
        """Open one of the four files: where it lies, and its content, unpacked."""

    @cached_property
    def in_dim(self) -> int:
        """Pixels of an image, from the header alone."""
        path, file = self._open("train-images-idx3-ubyte")
        with file:
            return math.prod(read_header(file, path, num_dims=3)[1:])

    @cached_property
    def out_dim(self) -> int:
        """Largest training label + 1."""
        return int(self._labels("train").max()) + 1

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        """As of every set of rows, with the names of the classes."""
        named = {} if self._class_names is None else {"class": tuple(self._class_names)}
        return super().label_names | named

    def _read(self, name: str, num_dims: int) -> tuple[Path, np.ndarray]:
        path, file = self._open(name)
        with file:
            return path, read_idx(file, path, num_dims=num_dims)

    def _labels(self, part: str) -> np.ndarray:
        return self._read(f"{part}-labels-idx1-ubyte", 1)[1]

    def _images_of(self, part: str) -> Images:
        path, pixels = self._read(f"{part}-images-idx3-ubyte", 3)
        labels = self._labels(part)
        if len(pixels) != len(labels):
            raise data_error(path, f"{len(labels)} images, one a label", f"{len(pixels)}", REMEDY)
        pixels = pixels.reshape(len(pixels), -1)
        if pixels.shape[1] != self.in_dim:
            expected = f"{self.in_dim} pixels an image, as in the training images"
            raise data_error(path, expected, f"{pixels.shape[1]}", REMEDY)
        if labels.max() >= self.out_dim:
            expected = f"labels below {self.out_dim}, as in the training labels"
            raise data_error(path, expected, f"label {labels.max()}", REMEDY)
        return Images(pixels, labels.astype(np.int64))

    def _load(self) -> dict[Split, Images]:
        train, test = self._images_of("train"), self._images_of("t10k")
        rows = stratified_split(train.labels, {"val": self._val_share})
        splits = {
            split: Images(train.pixels[kept], train.labels[kept]) for split, kept in rows.items()
        }
        return splits | {"test": test}


class IdxImages(IdxData):
    """Images of idx files that you have.

    Args:
        root: folder with the four files.
        batch_size: images a batch.
        seed: seed of the training stream.
        val_share: share of each class of the training files for validation.
        class_names: what the classes are called, in order; None calls them by their numbers.

    Raises:
        ConfigError: no root, batch_size below 1 or above the training rows, a share out of (0, 1),
            (from out_dim) not one name a class.
        DataError: a file is missing, truncated, or not what its name says.
    """

    def __init__(
        self,
        *,
        root: str | None,
        batch_size: int,
        seed: int,
        val_share: float,
        class_names: Sequence[str] | None,
    ) -> None:
        sizes = {"batch_size": batch_size, "seed": seed, "val_share": val_share}
        super().__init__(class_names=class_names, **sizes)
        self._root = check_root(root, "a folder with train-images-idx3-ubyte[.gz] and its kin")

    @cached_property
    def out_dim(self) -> int:
        """Largest training label + 1."""
        classes = super().out_dim
        if self._class_names is not None and len(self._class_names) != classes:
            raise ConfigError(
                f"data.class_names={list(self._class_names)}: {len(self._class_names)} names given,"
                f" {classes} expected, one a class of {self._root}."
            )
        return classes

    def _open(self, name: str) -> tuple[Path, BinaryIO]:
        path = find_idx(self._root, name)
        return path, open_idx(path)


def find_idx(root: Path, name: str) -> Path:
    """Return the path of the idx file `name` under `root`, plain before gzipped."""
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    remedy = f"Put the set's four idx files into {root}, or name their folder with data.root=."
    raise data_error(root / name, "an idx file, plain or .gz", "none", remedy)


def open_idx(path: Path) -> BinaryIO:
    """Open `path` for reading, unpacking it if its name ends in .gz."""
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def read_header(file: BinaryIO, path: Path, *, num_dims: int) -> tuple[int, ...]:
    """Read the header of an idx file and return its dimensions, images first.

    Raises:
        DataError: the file ends early or is damaged, its magic is not that of unsigned bytes in
            `num_dims` dimensions, or it holds nothing.
    """
    size = 4 * (1 + num_dims)
    head = _read(file, path, size)
    if len(head) < size:
        raise data_error(path, f"a header of {size} bytes", f"{len(head)} bytes", REMEDY)
    magic, *dims = struct.unpack(f">{1 + num_dims}I", head)
    wanted = UNSIGNED_BYTE << 8 | num_dims
    if magic != wanted:
        remedy = "Give the unpacked idx file, or its .gz under a name that ends in .gz."
        raise data_error(path, f"magic {wanted}", f"magic {magic}", remedy)
    if 0 in dims:
        raise data_error(path, "at least one value", f"dimensions {dims}", REMEDY)
    return tuple(dims)


def read_idx(file: BinaryIO, path: Path, *, num_dims: int) -> np.ndarray:
    """Read an idx file of unsigned bytes: uint8, shape as in the header.

    Raises:
        DataError: as `read_header`, or the bytes are not as many as the header says.
    """
    dims = read_header(file, path, num_dims=num_dims)
    body = _read(file, path, -1)
    if len(body) != math.prod(dims):
        expected = f"{math.prod(dims)} bytes after the header (dimensions {list(dims)})"
        raise data_error(path, expected, f"{len(body)}", REMEDY)
    return np.frombuffer(bytearray(body), dtype=np.uint8).reshape(dims)


def _read(file: BinaryIO, path: Path, size: int) -> bytes:
    try:
        return file.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise data_error(path, "a whole gzip file", str(error), REMEDY) from error
