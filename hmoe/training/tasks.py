"""Tasks: what the data asks of a model. A data module names its task: a loss and scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """A loss and further scores, all of them means over the batch.

    Attributes:
        loss: (output, y) -> scalar.
        scores: name -> (output, y, loss) -> scalar, for evaluation.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    scores: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]]


def _cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    """(..., C) and int64 (...) -> mean cross-entropy in nats; float32 whatever the autocast."""
    return F.cross_entropy(output.flatten(0, -2).float(), y.flatten())


def _loss(output: Tensor, y: Tensor, loss: Tensor) -> Tensor:
    return loss


def _bits(output: Tensor, y: Tensor, loss: Tensor) -> Tensor:
    return loss / log(2)


def _accuracy(output: Tensor, y: Tensor, loss: Tensor) -> Tensor:
    return (output.argmax(-1) == y).float().mean()


TASKS = {
    "classification": Task(loss=_cross_entropy, scores={"loss": _loss, "accuracy": _accuracy}),
    "regression": Task(
        loss=lambda output, y: F.mse_loss(output.float(), y), scores={"loss": _loss, "mse": _loss}
    ),
    "next_byte": Task(
        loss=_cross_entropy,
        scores={"loss": _loss, "bits_per_byte": _bits, "accuracy": _accuracy},
    ),
}
