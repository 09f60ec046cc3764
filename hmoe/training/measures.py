"""Measures: scores of a whole pass that are no means over batches, as areas under curves."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torchmetrics.classification import BinaryAUROC

from hmoe.data import Batch


class Measure(Protocol):
    """What a task asks of a whole pass over a split.

    Attributes:
        names: of its scores, as they follow "val/".
    """

    names: tuple[str, ...]

    def reset(self) -> None:
        """Begin a pass."""

    def update(self, answer: Tensor, batch: Batch) -> None:
        """Add the answers to a batch."""

    def compute(self) -> dict[str, float]:
        """The scores of the pass, by name; a score that the pass cannot tell is left out."""


class Areas:
    """Area under the ROC curve of every yes-or-no target, exact, and the mean of these areas.

    Args:
        names: of the targets, in the order of the columns.
    """

    def __init__(self, *, names: Sequence[str]) -> None:
        self.names = ("auc", *(f"auc/{name}" for name in names))
        self._curves = [BinaryAUROC() for _ in names]

    def reset(self) -> None:
        for curve in self._curves:
            curve.reset()

    def update(self, answer: Tensor, batch: Batch) -> None:
        for column, curve in enumerate(self._curves):
            # On the CPU: a pass is kept until its end, and the ranks are worked out there.
            curve.update(answer[:, column].float().cpu(), batch["y"][:, column].int().cpu())

    def compute(self) -> dict[str, float]:
        areas = torch.stack([curve.compute() for curve in self._curves]).double()
        values = [areas.mean(), *areas]
        return {name: value.item() for name, value in zip(self.names, values, strict=True)}
