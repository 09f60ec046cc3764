"""Learner: the one LightningModule. Task loss plus balance, and what is written down on the way."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import SumMetric

from hmoe.balance import Balance, mixture_layers
from hmoe.data import Batch, StreamData
from hmoe.data.loader import StepLoader
from hmoe.layer import Routing
from hmoe.layer.tree_ops import sum_below
from hmoe.metrics import LoadMetrics
from hmoe.training.measures import Measure
from hmoe.training.moments import Moments
from hmoe.training.options import AdamW, TrainerOptions
from hmoe.training.tasks import Task, mean_of

# A level of more nodes is told by its statistics alone: nobody looks at so many bars.
_MOST_NODES = 4096


class DivergedError(Exception):
    """The loss is no longer a number; the run ends as diverged, never as complete."""


def stretches(data: StreamData, trainer: pl.Trainer, options: TrainerOptions) -> StepLoader:
    """The training stream from the trainer's step on, in lists of `options.stretch` batches."""
    size = options.stretch

    def stretch_at(number: int) -> list[Batch]:
        return [data.train_batch(step) for step in range(number * size, (number + 1) * size)]

    return StepLoader(batch_at=stretch_at, first_step=lambda: trainer.global_step // size)


class Learner(pl.LightningModule):
    """Train a model that returns (output, routings).

    What the trainer does around a batch, some thirty hooks, costs as much as a small layer. So
    its batch is a stretch of steps (`stretches`), between which nothing but steps is due, and the
    optimiser is stepped here. Numbers leave the device once every `log_every` steps, together,
    through the logger and not through `self.log`.

    Args:
        model: batch["x"] -> (output, [Routing]).
        task: loss and scores.
        measures: the scores of a whole pass.
        balance: balance terms and bias controller, attached to the model's mixtures already.
        optim: optimiser and schedule.
        options: lengths and intervals.
        moments: folder for what the gates choose at each validation.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        task: Task,
        measures: Sequence[Measure],
        balance: Balance,
        optim: AdamW,
        options: TrainerOptions,
        moments: Path,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.task = task
        self.measures = measures
        self.balance = balance
        self.optim = optim
        self.options = options
        trees = [layer.tree for layer in mixture_layers(model)]
        self.loads = nn.ModuleList(LoadMetrics(tree=tree) for tree in trees)
        self.moments = Moments(folder=moments, trees=trees)
        self.sums: dict[str, SumMetric] = {}
        self.final: dict[str, float] = {}
        self.validated_at = -1
        self.latest: dict[str, float] = {}
        self._balance_values: dict[str, Tensor] = {}
        self._losses: list[Tensor] = []

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer, schedule = self.optim.make(self.model, self.options.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def training_step(self, batches: Sequence[Batch], batch_idx: int) -> None:
        for batch in batches:
            self.learn(batch)
        if self.global_step % self.options.log_every == 0:
            self._write_training()

    def learn(self, batch: Batch) -> None:
        """Take one step of the optimiser."""
        loss, routings = self.loss(batch)
        optimizer = self.optimizers()
        # Lightning's autocast is for the forward pass; the backward pass follows its types.
        with torch.autocast(self.device.type, enabled=False):
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
            optimizer.step()
            self.lr_schedulers().step()
            # The bias moves with the weights, so that a checkpoint holds both of the same step.
            self.balance.step(self.model, routings)

    def loss(self, batch: Batch) -> tuple[Tensor, Sequence[Routing]]:
        """What a step goes down, and the routing of every mixture."""
        output, routings = self.model(batch["x"])
        loss = self.task.training_loss(output, batch["y"])
        penalty, self._balance_values = self.balance.loss(routings)
        self._losses.append(loss.detach())
        return loss + penalty, routings

    def _write_training(self) -> None:
        """Write down the mean loss since the last line, and the balance of this step."""
        named = {"train/loss": torch.stack(self._losses).mean()}
        named |= {f"train/balance/{key}": value for key, value in self._balance_values.items()}
        self._losses.clear()
        numbers = torch.stack([value.double() for value in named.values()]).tolist()
        self.latest = dict(zip(named, numbers, strict=True))
        if not isfinite(self.latest["train/loss"]):
            raise DivergedError(
                f"train/loss is {self.latest['train/loss']} at step {self.global_step}"
            )
        lr = self.optimizers().param_groups[0]["lr"]
        self.logger.log_metrics(self.latest | {"train/lr": lr}, self.global_step)

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation()
        self.moments.start()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.moments.watch(self._evaluate(batch))

    def on_validation_epoch_end(self) -> None:
        self.validated_at = self.global_step
        gates = self.moments.finish(self.global_step, [load.load_E for load in self.loads])
        self._finish_evaluation("val", {f"gate/{key}": value for key, value in gates.items()})

    def on_test_epoch_start(self) -> None:
        self._start_evaluation()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        self._finish_evaluation("test", {})

    def _start_evaluation(self) -> None:
        self.sums = {}
        for part in (*self.loads, *self.measures):
            part.reset()

    def _evaluate(self, batch: Batch) -> Sequence[Routing]:
        """Add the scores and loads of a batch; returns the routing of every mixture."""
        output, routings = self.model(batch["x"])
        answer = mean_of(output)
        loss = self.task.loss(answer, batch["y"])
        num_items = batch["y"].numel()
        self._add("items", torch.tensor(float(num_items)))
        for name, score in self.task.scores.items():
            self._add(name, score(answer, batch["y"], loss) * num_items)
        for measure in self.measures:
            measure.update(answer, batch)
        for load, routing in zip(self.loads, routings, strict=True):
            load.update(routing)
        return routings

    def _add(self, name: str, value: Tensor) -> None:
        # "disable" keeps a NaN, by which a diverged run is known, and asks nothing of the device.
        # Sums, since a MeanMetric of torchmetrics 1.9 under "disable" ignores its weights.
        total = self.sums.setdefault(name, SumMetric(nan_strategy="disable").to(self.device))
        total.update(value.to(self.device))

    def _finish_evaluation(self, split: str, more: Mapping[str, float]) -> None:
        """Write down the scores, the loads and what `more` there is to say of this split."""
        sums = {name: total.compute().item() for name, total in self.sums.items()}
        num_items = sums.pop("items")
        metrics = {f"{split}/{name}": total / num_items for name, total in sums.items()}
        for measure in self.measures:
            metrics |= {f"{split}/{name}": value for name, value in measure.compute().items()}
        statistics = [load.compute() for load in self.loads]
        for key in statistics[0] if statistics else ():
            mean = sum(layer[key] for layer in statistics) / len(statistics)
            metrics[f"{split}/load/{key}"] = mean
        metrics |= {f"{split}/{key}": value for key, value in more.items()}
        self.final |= metrics
        self.logger.log_metrics(metrics, self.global_step)
        if not isfinite(metrics[f"{split}/loss"]):
            raise DivergedError(f"{split}/loss is {metrics[f'{split}/loss']}")

    def level_loads(self) -> dict[str, dict[str, list]]:
        """Share of all rows at every node of each level, as a mean over layers, with node names.

        Levels of very many nodes are left out.
        """
        if not len(self.loads):
            return {}
        tree = self.loads[0].tree
        shares = [load.load_E.double() / load.load_E.sum().clamp(min=1) for load in self.loads]
        share_N = sum_below(torch.stack(shares).mean(0), tree)
        cuts = {f"level_{level}": tree.cut(level) for level in range(tree.num_levels)}
        return {
            level: {
                "nodes": [tree.path_N[n] for n in cut],
                "load": [share_N[n].item() for n in cut],
                "even": [tree.num_below_N[n] / tree.num_experts for n in cut],
            }
            for level, cut in cuts.items()
            if len(cut) <= _MOST_NODES
        }
