"""Tasks: what the data asks of a model, and what training makes of it.

A data module names its task: a loss, scores, and what an expert's answer is compared with. Training
goes down the task's own loss, or a likelihood in which experts compete; scores are the same.

Letters: T rows, E experts, O targets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmoe.data import StreamData, TableData
from hmoe.data.ratings import PLACES
from hmoe.errors import ConfigError
from hmoe.models import Blend, Mixture
from hmoe.training.measures import (
    Areas,
    BitsPerByte,
    Measure,
    RatingScores,
    RootMeanSquare,
)

Output = Tensor | Blend
Objective = Callable[["Task", Output, Tensor], Tensor]


def mean_of(output: Output) -> Tensor:
    """The one answer of a model: of a blend, its mean."""
    return output.mean_TO if isinstance(output, Blend) else output


def own(task: "Task", output: Output, y: Tensor) -> Tensor:
    """The loss that the data ask for, of the one answer of the model."""
    return task.loss(mean_of(output), y)


def competitive(task: "Task", output: Blend, y: Tensor) -> Tensor:
    """-log sum_i p_i exp(-|d - o_i|^2 / 2), a mean over rows (Jacobs et al. 1991, eq. 1.3).

    p_i is the reach of expert i, so it holds on any tree; d are values, or classes one-hot. Up to a
    constant it is minus the log-likelihood of a mixture of Gaussians with variance 1.
    """
    target_TO = task.target(y, output.mean_TO.shape[-1]).float()
    square_TE = (target_TO.unsqueeze(1) - output.answer_TEO.float()).square().sum(-1)
    # An expert out of reach has no logarithm; this one is small enough, and has a gradient of 0.
    log_reach_TE = output.reach_TE.clamp(min=torch.finfo(torch.float32).tiny).log()
    return -(log_reach_TE - square_TE / 2).logsumexp(-1).mean()


@dataclass(frozen=True)
class Task:
    """A loss, further scores that are means over the batch, and those that need a whole pass.

    Attributes:
        loss: (answer, y) -> scalar.
        scores: name -> (answer, y, loss) -> scalar, for evaluation.
        measures: data -> the scores of a whole pass.
        target: (y, O) -> what an expert that answers with values should say, (T, O).
        objective: (task, output, y) -> scalar, what training goes down.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    scores: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]]
    target: Callable[[Tensor, int], Tensor]
    measures: Callable[[StreamData], Sequence[Measure]] = lambda data: ()
    objective: Objective = own

    def training_loss(self, output: Output, y: Tensor) -> Tensor:
        """What training goes down, of all that the model put out."""
        return self.objective(self, output, y)


def make_task(data: StreamData, objective: Objective, model: nn.Module) -> Task:
    """The task that the data name, trained by an objective.

    Raises:
        ConfigError: experts are to compete in a model that does not show their answers.
    """
    if getattr(objective, "func", objective) is competitive and not isinstance(model, Mixture):
        raise ConfigError(
            f"loss = competitive: needs the answer of every expert, and {type(model).__name__} has "
            "none to show. Use model=mixture, or loss=own."
        )
    return replace(TASKS[data.task], objective=objective)


def _cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    """(..., C) and int64 (...) -> mean cross-entropy in nats; float32 whatever the autocast."""
    return F.cross_entropy(output.flatten(0, -2).float(), y.flatten())


def _loss(output: Tensor, y: Tensor, loss: Tensor) -> Tensor:
    return loss


def _bits(output: Tensor, y: Tensor, loss: Tensor) -> Tensor:
    return loss / log(2)


def _accuracy(output: Tensor, y: Tensor, loss: Tensor) -> Tensor:
    return (output.argmax(-1) == y).float().mean()


def _binary_cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    """(B, K) and (B, K) of 0 and 1 -> mean over rows and tasks, in nats."""
    return F.binary_cross_entropy_with_logits(output.float(), y)


TASKS = {
    "classification": Task(
        loss=_cross_entropy, scores={"loss": _loss, "accuracy": _accuracy}, target=F.one_hot
    ),
    "regression": Task(
        loss=lambda output, y: F.mse_loss(output.float(), y),
        scores={"loss": _loss, "mse": _loss},
        target=lambda y, _: y,
        measures=lambda data: (
            [RootMeanSquare(units=lambda: data.target_sd)] if isinstance(data, TableData) else []
        ),
    ),
    "rating": Task(
        loss=lambda output, y: F.mse_loss(output.float(), y),
        scores={"loss": _loss},
        target=lambda y, _: y,
        measures=lambda data: [RatingScores(places=PLACES)],
    ),
    "yes_or_no": Task(
        loss=_binary_cross_entropy,
        scores={"loss": _loss},
        target=lambda y, _: y,
        measures=lambda data: [Areas(names=data.target_names)],
    ),
    "next_byte": Task(
        loss=_cross_entropy,
        scores={"loss": _loss, "bits_per_byte": _bits, "accuracy": _accuracy},
        target=F.one_hot,
    ),
    "next_token": Task(
        loss=_cross_entropy,
        scores={"loss": _loss, "accuracy": _accuracy},
        target=F.one_hot,
        measures=lambda data: [BitsPerByte(token_bytes=lambda: data.token_bytes)],
    ),
}
