"""Measures: scores of a whole pass that are no means over batches, as areas under curves."""

from collections.abc import Callable, Sequence
from math import log
from statistics import fmean
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hmoe.data import Batch
from hmoe.metrics import area_under_roc, rating_scores


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

    A target of which a pass has one answer only has no curve, and does not count in the mean.

    Args:
        names: of the targets, in the order of the columns.
    """

    def __init__(self, *, names: Sequence[str]) -> None:
        self.names = ("auc", *(f"auc/{name}" for name in names))
        self.reset()

    def reset(self) -> None:
        self._answers: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, answer: Tensor, batch: Batch) -> None:
        # Kept where they are: no batch waits for the device.
        self._answers.append(answer.double())
        self._targets.append(batch["y"] > 0)

    def compute(self) -> dict[str, float]:
        answer_RK, yes_RK = (
            torch.cat(parts).cpu().numpy() for parts in (self._answers, self._targets)
        )
        areas = {}
        for name, answer_R, yes_R in zip(self.names[1:], answer_RK.T, yes_RK.T, strict=True):
            if yes_R.any() and not yes_R.all():
                areas[name] = area_under_roc(answer_R, yes_R)
        return {"auc": fmean(areas.values()), **areas} if areas else {}


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
