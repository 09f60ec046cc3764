"""Tasks: what the data asks of a model. A data module names its task: a loss and scores."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """A loss and further scores, all of them means over the batch.

    Attributes:
        loss: (output, y) -> scalar.
        scores: (output, y, loss) -> {name: scalar}, for evaluation.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    scores: Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]


def _cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    """(..., C) and int64 (...) -> mean cross-entropy in nats; float32 whatever the autocast."""
    return F.cross_entropy(output.flatten(0, -2).float(), y.flatten())


def _accuracy(output: Tensor, y: Tensor) -> Tensor:
    return (output.argmax(-1) == y).float().mean()


TASKS = {
    "classification": Task(
        loss=_cross_entropy,
        scores=lambda output, y, loss: {"loss": loss, "accuracy": _accuracy(output, y)},
    ),
    "regression": Task(
        loss=lambda output, y: F.mse_loss(output.float(), y),
        scores=lambda output, y, loss: {"loss": loss, "mse": loss},
    ),
    "next_byte": Task(
        loss=_cross_entropy,
        scores=lambda output, y, loss: {
            "loss": loss,
            "bits_per_byte": loss / log(2),
            "accuracy": _accuracy(output, y),
        },
    ),
}
