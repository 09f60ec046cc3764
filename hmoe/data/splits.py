"""Splits by hash: a row, or a user, belongs where its number says, however many there are."""

import numpy as np

from hmoe.data.loader import Split


def unit_hash(number_R: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 1 that look random, one for each whole number: float64 (R,).

    The finaliser of splitmix64 (Steele, Lea & Flood 2014), the same on every machine; neighbours
    are unrelated, so that any order in a file is none in the split.
    """
    with np.errstate(over="ignore"):
        mixed_R = number_R.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed_R += np.uint64(0x9E3779B97F4A7C15)
        mixed_R = (mixed_R ^ (mixed_R >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed_R = (mixed_R ^ (mixed_R >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed_R ^ (mixed_R >> np.uint64(31))) / 2.0**64


def split_by_hash(num_rows: int, *, val_share: float, test_share: float) -> dict[Split, np.ndarray]:
    """Ascending row numbers of every split; a row stays where it is when rows are appended."""
    place_R = unit_hash(np.arange(num_rows))
    test_R = place_R < test_share
    val_R = ~test_R & (place_R < test_share + val_share)
    parts: dict[Split, np.ndarray] = {"train": ~(test_R | val_R), "val": val_R, "test": test_R}
    return {split: np.flatnonzero(part) for split, part in parts.items()}
