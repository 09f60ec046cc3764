"""Progress: a bar on standard error with the loss, the last validation and the time left."""

from types import TracebackType
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hmoe.training.learner import Learner


class ProgressBar(pl.Callback):
    """Show the steps of a run. Updated every `log_every` steps, when numbers leave the device."""

    def __init__(self) -> None:
        self._progress = _bar()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._task = self._progress.add_task(
            "", total=trainer.max_steps, completed=trainer.global_step, numbers=""
        )
        self._progress.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Learner, *_: Any) -> None:
        if trainer.global_step % pl_module.options.log_every == 0:
            shown = [f"loss {pl_module.latest['train/loss']:.3f}"]
            for name in ("bits_per_byte", "accuracy", "mse"):
                if f"val/{name}" in pl_module.final:
                    shown.append(f"val {name} {pl_module.final[f'val/{name}']:.4f}")
                    break
            self._progress.update(
                self._task, completed=trainer.global_step, numbers=", ".join(shown)
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._progress.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._progress.stop()


class EpochBar:
    """Show the epochs of a fit by EM, from the first on: mistakes are told without a bar."""

    def __init__(self) -> None:
        self._progress = _bar()

    def __enter__(self) -> "EpochBar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress.tasks:  # stopping writes a line, started or not
            self._progress.stop()

    def show(self, left: int, epoch: dict[str, float]) -> None:
        """Show the numbers of an epoch, with so many left."""
        if not self._progress.tasks:
            self._task = self._progress.add_task("", total=left, completed=0, numbers="")
            self._progress.start()
        numbers = f"log-likelihood {epoch['log_likelihood']:.3f}, "
        numbers += f"val relative error {epoch['val/relative_error']:.4f}"
        done = self._progress.tasks[0].total - left
        self._progress.update(self._task, completed=done, numbers=numbers)


def _bar() -> Progress:
    return Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
