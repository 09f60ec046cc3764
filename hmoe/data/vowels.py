"""Vowels: ten English vowels by 76 speakers, as Peterson & Barney (1952) measured them.

Every speaker said every vowel twice; a row of the file is one vowel that was said:

    type,sex,speaker,vowel,repetition,f0,f1,f2,f3
    m,m,1,i,1,160,240,2280,2850

type is m, w or c (man, woman, child), vowels are in X-SAMPA, formants in Hz. Jacobs, Jordan, Nowlan
& Hinton (1991) took [i], [I], [a] and [ʌ] (here A and V), formants 1 and 2, 75 speakers, 50 of them
to train on. Which 50 they do not say; ours are drawn once, and are the same in every run.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hmoe.data.known_sets import KNOWN_SETS
from hmoe.data.loader import Split
from hmoe.data.rows import RowData
from hmoe.errors import ConfigError, check_names

VOWELS = ("i", "I", "E", "{", "A", "O", "U", "u", "V", "3'")
FEATURES = ("f0", "f1", "f2", "f3")
SPLIT_SEED = 1952
_SPEAKERS: dict[Split, int] = {"train": 40, "val": 10, "test": 25}
_FILE = "pb52.csv"


class Vowels(RowData):
    """Formants of vowels: x float32 (B, features), y int64 (B,), a vowel's place in `vowels`.

    Speakers are split, not rows: 40 to train on, 10 for validation, 25 to test, one is left out.
    Features are standardised with the means and deviations of the training rows.

    Args:
        root: folder that holds the file.
        batch_size: rows a batch.
        seed: seed of the training stream; the splits do not depend on it.
        vowels: which vowels, at least two.
        features: which columns, at least one.

    Raises:
        ConfigError: an unknown vowel or feature, too few of them, a batch above the training rows.
        DataError: the file is missing or is not the one published.
    """

    task = "classification"

    def __init__(
        self,
        *,
        root: str,
        batch_size: int,
        seed: int,
        vowels: Sequence[str],
        features: Sequence[str],
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        _check("vowels", vowels, VOWELS, least=2)
        _check("features", features, FEATURES, least=1)
        self.root = root
        self.vowels, self.features = tuple(vowels), tuple(features)
        self.in_dim, self.out_dim = len(self.features), len(self.vowels)

    def _load(self) -> dict[Split, tuple[np.ndarray, np.ndarray]]:
        x, y, speaker = read_vowels(self.root, self.vowels, self.features)
        own = dict(zip(_SPEAKERS, split_speakers(speaker, *_SPEAKERS.values()), strict=True))
        mean, deviation = x[own["train"]].mean(0), x[own["train"]].std(0)
        x = ((x - mean) / deviation).astype(np.float32)
        return {split: (x[rows], y[rows]) for split, rows in own.items()}

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        """The vowels, by their numbers."""
        return super().label_names | {"class": self.vowels}


def read_vowels(
    root: str | Path, vowels: Sequence[str], features: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features in Hz, float64 (rows, features), places of the vowels int64, speakers int64.

    Raises:
        DataError: the file is missing or is not the one published.
    """
    known = KNOWN_SETS["vowel_peterson_barney"]
    lines = list(csv.DictReader(io.StringIO(known.read(root, _FILE).decode())))
    lines = [line for line in lines if line["vowel"] in vowels]
    x = np.array([[float(line[name]) for name in features] for line in lines])
    y = np.array([list(vowels).index(line["vowel"]) for line in lines], dtype=np.int64)
    return x, y, np.array([int(line["speaker"]) for line in lines], dtype=np.int64)


def split_speakers(speaker: np.ndarray, *counts: int) -> list[np.ndarray]:
    """Whether a row is of the first so many speakers in one drawn order, the next so many, ..."""
    order = np.random.RandomState(SPLIT_SEED).permutation(np.unique(speaker))  # NEP 19: for good
    ends = np.cumsum(counts)
    return [
        np.isin(speaker, order[end - count : end]) for count, end in zip(counts, ends, strict=True)
    ]


def _check(name: str, given: Sequence[str], known: Sequence[str], *, least: int) -> None:
    check_names(f"data.{name}", given, known)
    if len(given) < least or len(set(given)) < len(given):
        raise ConfigError(f"data.{name} = {list(given)}: needs {least} or more, none twice.")
