"""Measures: scores of a whole pass that are no means over batches, as areas under curves."""

from collections.abc import Callable, Sequence
from math import log
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import BinaryAUROC

from hmoe.data import Batch
from hmoe.metrics import rating_scores


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


class BitsPerByte:
    """Bits for each byte that the predicted tokens stand for, the same scale for all vocabularies.

    The cross-entropy of all predicted tokens together, over the bytes of all of them: a mean over
    batches of it would weigh the bytes of long tokens less.

    Args:
        token_bytes: the bytes of each token, int64 (V,); asked once a pass has begun.
    """

    names = ("bits_per_byte",)

    def __init__(self, *, token_bytes: Callable[[], Tensor]) -> None:
        self._token_bytes = token_bytes
        self._lengths: Tensor | None = None
        self.reset()

    def reset(self) -> None:
        self._nats: Tensor | float = 0.0
        self._bytes: Tensor | int = 0

    def update(self, answer: Tensor, batch: Batch) -> None:
        if self._lengths is None:
            self._lengths = self._token_bytes().to(answer.device)
        y = batch["y"].flatten()
        nats = F.cross_entropy(answer.flatten(0, -2).float(), y, reduction="sum")
        self._nats = self._nats + nats.double()
        self._bytes = self._bytes + self._lengths[y].sum()

    def compute(self) -> dict[str, float]:
        return {"bits_per_byte": float(self._nats) / float(self._bytes) / log(2)}


class RootMeanSquare:
    """Root mean square error in the targets' own units, over rows and targets.

    Args:
        units: -> what 1 of a standardised target is, (targets,); asked once a pass has ended.
    """

    names = ("rmse",)

    def __init__(self, *, units: Callable[[], np.ndarray]) -> None:
        self._units = units
        self.reset()

    def reset(self) -> None:
        self._squares: list[Tensor] = []

    def update(self, answer: Tensor, batch: Batch) -> None:
        self._squares.append((answer.double() - batch["y"]).square().cpu())

    def compute(self) -> dict[str, float]:
        square = torch.cat(self._squares).numpy() * self._units() ** 2
        return {"rmse": float(np.sqrt(square.mean()))}


class RatingScores:
    """Error and order of predicted ratings: see `rating_scores`. Ratings are centred in "y".

    Args:
        places: of a user's ratings, ordered by what is predicted, the first so many count.
    """

    names = tuple(f"{score}{of}" for score in ("rmse", "ndcg") for of in ("", "/warm", "/cold"))

    def __init__(self, *, places: int) -> None:
        self._places = places
        self.reset()

    def reset(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []

    def update(self, answer: Tensor, batch: Batch) -> None:
        rating = batch["rating"].double()
        predicted = answer[:, 0].double() + rating - batch["y"][:, 0]
        parts = (predicted, rating, batch["user"], batch["cold"])
        self._parts.append(tuple(part.cpu() for part in parts))

    def compute(self) -> dict[str, float]:
        predicted, rating, user, cold = (
            torch.cat(parts).numpy() for parts in zip(*self._parts, strict=True)
        )
        return rating_scores(predicted, rating, user, cold, k=self._places)
