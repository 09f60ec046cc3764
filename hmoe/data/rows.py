"""What sets of rows share: vectors and their targets, held in memory, passed on in batches.

A set says what its rows are (`_load`); this module digests them and makes batches of them.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from hmoe.data.checks import check_at_least, check_seed
from hmoe.data.loader import SPLITS, Batch, EpochOrder, Split, SplitLoader, StreamData
from hmoe.errors import ConfigError


class RowData(StreamData):
    """Vectors x (B, in_dim) and targets y (B, ...).

    A set adds `task`, `in_dim`, `out_dim` and `_load`; one that knows what its rows come from
    puts that into `_domains`, int64 (rows, levels) of every split. Of classification the class is
    a label; of several yes-or-no targets, y float32 (B, K), `target_names` has the names.

    Args:
        batch_size: rows a batch, in training and in evaluation.
        seed: seed of the training stream; the splits do not depend on it.
    """

    input_kind = "vectors"
    task: str
    out_dim: int
    target_names: tuple[str, ...] = ()

    def __init__(self, *, batch_size: int, seed: int) -> None:
        super().__init__()
        check_at_least("batch_size", batch_size, 1)
        check_seed(seed)
        self.batch_size = batch_size
        self.seed = seed
        self._rows: dict[Split, tuple[Tensor, Tensor]] = {}
        self._domains: dict[Split, Tensor] = {}
        self._digest = ""

    @abstractmethod
    def _load(self) -> Mapping[Split, tuple[np.ndarray, np.ndarray]]:
        """Read or make the inputs and targets of every split."""

    def _digested(self, values: np.ndarray) -> bytes:
        """What the digest reads of inputs or targets, the same on every machine."""
        return values.astype(values.dtype.newbyteorder("<")).tobytes()

    @property
    def digest(self) -> str:
        """SHA-256 of shapes, inputs and targets of each split, in order."""
        self.setup()
        return self._digest

    def setup(self, stage: str | None = None) -> None:
        """Bring all splits into memory, once.

        Raises:
            ConfigError: the batch is larger than the training split, or a split has no row.
            DataError: a file is missing or wrong.
        """
        if self._rows:
            return
        splits = self._load()
        num_rows = len(splits["train"][1])
        self._order = EpochOrder(num_rows=num_rows, batch_size=self.batch_size, seed=self.seed)
        digest = hashlib.sha256()
        rows: dict[Split, tuple[Tensor, Tensor]] = {}
        for split in SPLITS:
            x, y = splits[split]
            if len(y) == 0:
                raise ConfigError(f"data.{split}_share: leaves no row in the {split} split.")
            digest.update(f"{split} {x.shape}\n".encode())
            digest.update(self._digested(x))
            digest.update(self._digested(y))
            rows[split] = torch.from_numpy(x), torch.from_numpy(y)
        self._digest = digest.hexdigest()
        self._rows = rows

    def train_batch(self, step: int) -> Batch:
        """Return the batch of `step`, a pure function of (seed, step)."""
        self.setup()
        return self._batch("train", self._order.rows_at(step))

    def pass_over(self, split: Split) -> SplitLoader:
        """Return one pass over an evaluation split."""
        self.setup()
        return SplitLoader(
            num_rows=len(self._rows[split][1]),
            batch_size=self.batch_size,
            batch_of=lambda rows: self._batch(split, rows),
        )

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        """As of every set, and the classes, by their numbers."""
        own = {"class": tuple(map(str, range(self.out_dim)))}
        return super().label_names | (own if self.task == "classification" else {})

    def labels(self, batch: Batch) -> dict[str, Tensor]:
        """As of every set, and the classes."""
        own = {"class": batch["y"]}
        return super().labels(batch) | (own if self.task == "classification" else {})

    def _batch(self, split: Split, rows: Tensor) -> Batch:
        x, y = self._rows[split]
        batch = {"x": x[rows], "y": y[rows]}
        if self._domains:
            batch["domain"] = self._domains[split][rows]
        return batch
