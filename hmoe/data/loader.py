"""Which rows a step sees: the endless training stream, the fixed passes of evaluation.

The training stream is a pure function of (seed, step): every process that asks for the batch of a
step gets the same one. So arms of a study are paired by seed, and a resumed run sees exactly the
data of the uninterrupted one, with nothing about the stream to save in a checkpoint.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from hmoe.errors import ConfigError

Batch = dict[str, Tensor]
"""One batch: "x" and "y", and "domain" where it is known what the tokens come from."""

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def random_state(seed: int, number: int) -> np.random.RandomState:
    """Return the random numbers that belong to (seed, number), for instance (seed, step).

    numpy's SeedSequence mixes the two integers into 128 bits by a published algorithm, so
    neighbouring seeds and steps are unrelated; RandomState's draws are frozen (NEP 19), so they
    are the same under every numpy. A torch.Generator would not do: on the CPU it keeps only the
    low 32 bits of its seed, and among 100 000 steps about one pair would share a batch.
    """
    return np.random.RandomState(np.random.PCG64(np.random.SeedSequence([seed, number])))


class EpochOrder:
    """Rows of the batch of every step: each epoch goes through the rows in an order of its own.

    The batches of an epoch that would be incomplete are dropped rather than filled from the next
    epoch: all batches then have one size, no row occurs twice in a batch, and a batch depends on
    one permutation. The rows left out differ from epoch to epoch, so none is lost for good.

    Args:
        num_rows: rows of the training split.
        batch_size: rows of a batch.
        seed: the seed of the run.

    Raises:
        ConfigError: a batch is larger than the split.
    """

    def __init__(self, *, num_rows: int, batch_size: int, seed: int) -> None:
        if batch_size > num_rows:
            raise ConfigError(
                f"data.batch_size={batch_size}: must be at most {num_rows}, the training rows."
            )
        self._num_rows = num_rows
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def rows_at(self, step: int) -> Tensor:
        """Return the row numbers of the batch of `step`: int64 (batch_size,)."""
        epoch, batch = divmod(step, self._num_rows // self._batch_size)
        if epoch != self._epoch:
            order = random_state(self._seed, epoch).permutation(self._num_rows)
            self._epoch, self._order = epoch, torch.from_numpy(order)
        return self._order[batch * self._batch_size : (batch + 1) * self._batch_size]


class StepLoader:
    """Endless training batches, starting at `first_step()` each time it is iterated.

    It has no length: the trainer's max_steps ends the run. One batch belongs to one optimiser
    step.

    Args:
        batch_at: the batch of a step.
        first_step: the step to go on from, asked anew by every iteration.
    """

    def __init__(self, *, batch_at: Callable[[int], Batch], first_step: Callable[[], int]) -> None:
        self._batch_at = batch_at
        self._first_step = first_step

    def __iter__(self) -> Iterator[Batch]:
        return (self._batch_at(step) for step in count(self._first_step()))


class SplitLoader:
    """One pass over an evaluation split in fixed order; the last batch may be smaller.

    Args:
        num_rows: rows of the split.
        batch_size: rows of a batch.
        batch_of: the batch made of the given row numbers, int64 (B,).
    """

    def __init__(
        self, *, num_rows: int, batch_size: int, batch_of: Callable[[Tensor], Batch]
    ) -> None:
        self._rows = torch.arange(num_rows).split(batch_size)
        self._batch_of = batch_of

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Batch]:
        return map(self._batch_of, self._rows)

    def spread(self, num_rows: int) -> "SplitLoader":
        """Return a pass over this many of the rows, or all there are, evenly spread over this one.

        Its batches are as large as those of this pass.
        """
        total = sum(map(len, self._rows))
        num_rows = min(num_rows, total)
        row_B = torch.cat(self._rows)[torch.arange(num_rows) * total // max(1, num_rows)]
        return SplitLoader(
            num_rows=num_rows,
            batch_size=len(self._rows[0]),
            batch_of=lambda places: self._batch_of(row_B[places]),
        )


class StreamData(LightningDataModule, ABC):
    """What all sets share: an endless seeded training stream, and one pass over a split.

    Attributes:
        floor: score -> what the best model that there can be has in it, where that is known.
        domain_labels: what the levels of a batch's "domain" are called, coarse to fine.
        notes: what a reader of the scores must know of the data.
        domain_names: names of the domains of each level; a batch's "domain" counts along them. ()
            where nothing is known.
        row_group: the entry of a batch by which rows hang together, int64 (rows,), so that they are
            no evidence of their own; "" where there is none.
    """

    floor: Mapping[str, float] = {}
    domain_labels: tuple[str, ...] = ()
    domain_names: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    row_group: str = ""

    @abstractmethod
    def train_batch(self, step: int) -> Batch:
        """Return the batch of `step`, a pure function of (seed, step)."""

    @abstractmethod
    def pass_over(self, split: Split) -> SplitLoader:
        """Return one pass over an evaluation split."""

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        """What is known of every token, and the names of its values: label -> value -> name.

        What a gate may have found out: domains, and what else the set adds.
        """
        return dict(zip(self.domain_labels, self.domain_names, strict=False))

    def labels(self, batch: Batch) -> dict[str, Tensor]:
        """Return the value that every label has for every token of a batch: int64 (tokens,) each.

        Tokens are in the order in which a model lays them end to end, the last axis fastest.
        """
        levels = enumerate(zip(self.domain_labels, self.domain_names, strict=False))
        return {label: batch["domain"][..., level].flatten() for level, (label, _) in levels}

    def train_dataloader(self) -> StepLoader:
        """Return the endless training stream, from the trainer's step on."""
        return StepLoader(
            batch_at=self.train_batch,
            first_step=lambda: self.trainer.global_step if self.trainer else 0,
        )

    def val_dataloader(self) -> SplitLoader:
        """Return one pass over the validation split."""
        return self.pass_over("val")

    def test_dataloader(self) -> SplitLoader:
        """Return one pass over the test split."""
        return self.pass_over("test")
