"""What the sets of small images share: pixels become vectors in [-1, 1], labels classes.

A set says where its pixels come from (`_load`); `RowData` makes batches of them. Pixels stay
uint8 in memory, a quarter of the size, and are scaled batch by batch. [-1, 1] and not [0, 1]
because the usual initialisations expect features of about unit size on both sides of zero.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hmoe.data.loader import Batch, Split
from hmoe.data.rows import RowData

SPLIT_SEED = 1991
"""Seed of the splits. Never the seed of the run: all arms and seeds must share one split."""


class Images(NamedTuple):
    """The images of a split: pixels uint8 (rows, in_dim), labels int64 (rows,)."""

    pixels: np.ndarray
    labels: np.ndarray


class PixelData(RowData):
    """Images as vectors: x float32 (B, in_dim) in [-1, 1], y int64 (B,).

    A set adds `in_dim`, the pixels of an image, `out_dim`, the number of classes, and `_load`.
    Arguments and errors are those of `RowData`.
    """

    task = "classification"
    white: int
    """The largest value of a pixel, which becomes 1; 0 becomes -1."""

    @abstractmethod
    def _load(self) -> dict[Split, Images]:
        """Read the images of every split."""

    def _batch(self, split: Split, rows: Tensor) -> Batch:
        batch = super()._batch(split, rows)
        return {**batch, "x": batch["x"].float() * (2 / self.white) - 1}


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


def superclasses(
    splits: Mapping[Split, Images], members: Mapping[str, Sequence[str]], classes: Sequence[str]
) -> dict[Split, Tensor]:
    """Return for every image of every split the number of its superclass, int64 (rows, 1).

    Args:
        splits: the images.
        members: superclass -> names of its classes; each class has one.
        classes: names of the classes, in order.
    """
    number = {name: place for place, names in enumerate(members.values()) for name in names}
    above_C = torch.tensor([number[name] for name in classes])
    return {name: above_C[torch.from_numpy(split.labels), None] for name, split in splits.items()}
