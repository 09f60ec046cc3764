"""What the sets of small grey images share: pixels become vectors in [-1, 1], labels classes.

A set says where its pixels come from (`_load`); this module makes batches of them. Pixels stay
uint8 in memory, a quarter of the size, and are scaled batch by batch. [-1, 1] and not [0, 1]
because the usual initialisations expect features of about unit size on both sides of zero.
"""

import hashlib
from abc import abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hmoe.data.checks import check_at_least, check_seed
from hmoe.data.loader import SPLITS, Batch, EpochOrder, Split, SplitLoader, StreamData
from hmoe.errors import ConfigError

SPLIT_SEED = 1991
"""Seed of the splits. Never the seed of the run: all arms and seeds must share one split."""


class Images(NamedTuple):
    """The images of a split: pixels uint8 (rows, in_dim), labels int64 (rows,)."""

    pixels: np.ndarray
    labels: np.ndarray


class PixelData(StreamData):
    """Images as vectors: x float32 (B, in_dim) in [-1, 1], y int64 (B,).

    A set adds `in_dim`, the pixels of an image, `out_dim`, the number of classes, and `_load`.

    Args:
        batch_size: images a batch, in training and in evaluation.
        seed: seed of the training stream; the splits do not depend on it.
    """

    task = "classification"
    input_kind = "vectors"
    domain_names: tuple[tuple[str, ...], ...] = ()
    white: int
    """The largest value of a pixel, which becomes 1; 0 becomes -1."""

    def __init__(self, *, batch_size: int, seed: int) -> None:
        super().__init__()
        check_at_least("batch_size", batch_size, 1)
        check_seed(seed)
        self.batch_size = batch_size
        self.seed = seed
        self._images: dict[Split, tuple[Tensor, Tensor]] = {}
        self._digest = ""

    @abstractmethod
    def _load(self) -> dict[Split, Images]:
        """Read the images of every split."""

    @property
    def digest(self) -> str:
        """SHA-256 of shapes, pixels and labels of each split, in order."""
        self.setup()
        return self._digest

    def setup(self, stage: str | None = None) -> None:
        """Load all splits into memory, once.

        Raises:
            ConfigError: the batch is larger than the training split, or a split has no row.
            DataError: a file is missing or wrong.
        """
        if self._images:
            return
        splits = self._load()
        num_rows = len(splits["train"].labels)
        self._order = EpochOrder(num_rows=num_rows, batch_size=self.batch_size, seed=self.seed)
        digest = hashlib.sha256()
        images: dict[Split, tuple[Tensor, Tensor]] = {}
        for split in SPLITS:
            pixels, labels = splits[split]
            if len(labels) == 0:
                raise ConfigError(f"data.{split}_share: leaves no row in the {split} split.")
            digest.update(f"{split} {pixels.shape}\n".encode())
            digest.update(pixels.tobytes())
            digest.update(labels.astype("<i8").tobytes())
            images[split] = torch.from_numpy(pixels), torch.from_numpy(labels)
        self._digest = digest.hexdigest()
        self._images = images

    def train_batch(self, step: int) -> Batch:
        """Return the batch of `step`, a pure function of (seed, step)."""
        self.setup()
        return self._batch("train", self._order.rows_at(step))

    def pass_over(self, split: Split) -> SplitLoader:
        """Return one pass over an evaluation split."""
        self.setup()
        return SplitLoader(
            num_rows=len(self._images[split][1]),
            batch_size=self.batch_size,
            batch_of=lambda rows: self._batch(split, rows),
        )

    def _batch(self, split: Split, rows: Tensor) -> Batch:
        pixels, labels = self._images[split]
        return {"x": pixels[rows].float() * (2 / self.white) - 1, "y": labels[rows]}


def stratified_split(labels: np.ndarray, shares: dict[Split, float]) -> dict[Split, np.ndarray]:
    """Share rows out so that every class is in every split in proportion; the rest is "train".

    Args:
        labels: class of each row, int (rows,).
        shares: share of the rows of each class, to the nearest whole row, for "val" and "test".

    Returns:
        Ascending row numbers per split: disjoint, together all rows, the same on every call.
    """
    draw = np.random.RandomState(SPLIT_SEED)  # its draws are the same under every numpy (NEP 19)
    parts: dict[Split, list[np.ndarray]] = {split: [] for split in (*shares, "train")}
    for label in np.unique(labels):
        rows = draw.permutation(np.flatnonzero(labels == label))
        start = 0
        for split, share in shares.items():
            end = start + round(share * len(rows))
            parts[split].append(rows[start:end])
            start = end
        parts["train"].append(rows[start:])
    return {split: np.sort(np.concatenate(rows)) for split, rows in parts.items()}
