"""FashionMnist: 60,000 + 10,000 grey pictures of clothing in ten classes, 28 x 28 pixels.

The four files as published, in the format of idx_images.py; the training images begin

    00000803 0000ea60 0000001c 0000001c | 00 00 00 00 ..    class 9, an ankle boot

Xiao, Rasul and Vollgraf, "Fashion-MNIST" (2017, arXiv 1708.07747), MIT licence; 30 MB gzipped,
55 MB in memory. The superclasses are ours.
"""

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from hmoe.data.idx_images import IdxData
from hmoe.data.known_sets import KNOWN_SETS
from hmoe.data.loader import Split
from hmoe.data.pixels import Images, superclasses

CLASSES = (
    *("t_shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle_boot"),
)
SUPERCLASSES = {
    "tops": ("t_shirt", "pullover", "dress", "coat", "shirt"),
    "trouser": ("trouser",),
    "footwear": ("sandal", "sneaker", "ankle_boot"),
    "bag": ("bag",),
}


class FashionMnist(IdxData):
    """Fashion-MNIST: x float32 (B, 784) in [-1, 1], y int64 (B,); the superclass is the domain.

    Args:
        root: folder with the four files.
        batch_size: images a batch.
        seed: seed of the training stream.
        val_share: share of each class of the training files for validation.

    Raises:
        ConfigError: batch_size below 1 or above the training rows, a share out of (0, 1).
        DataError: a file is missing, or is not the published one.
    """

    in_dim = 28 * 28
    out_dim = len(CLASSES)
    domain_labels = ("superclass",)
    domain_names = (tuple(SUPERCLASSES),)

    def __init__(self, *, root: str, batch_size: int, seed: int, val_share: float) -> None:
        sizes = {"batch_size": batch_size, "seed": seed, "val_share": val_share}
        super().__init__(class_names=CLASSES, **sizes)
        self._root = root

    def _open(self, name: str) -> tuple[Path, BinaryIO]:
        known = KNOWN_SETS["fashion_mnist"]
        return known.find(self._root, name), BytesIO(known.read(self._root, name))

    def _load(self) -> dict[Split, Images]:
        splits = super()._load()
        self._domains = superclasses(splits, SUPERCLASSES, CLASSES)
        return splits
