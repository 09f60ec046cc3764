"""Checkpoints that survive a kill at any moment: written aside, synced, renamed, the last kept."""

import hashlib
import os
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.trainer.states import TrainerFn

from hmoe.training.options import TrainerOptions

_DIGEST = ".sha256"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the target and rename.

    Lightning writes by way of the temporary folder; if that is another file system, a disk that
    fills up destroys the previous good checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save so that `path` is either absent or whole, with its digest beside it."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        with aside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(_DIGEST).write_text(_digest(aside))
        os.replace(aside, path)


class Checkpoints(pl.Callback):
    """Save to `folder` as the options say, keep the last, carry along what Lightning does not.

    A step that is validated is saved after its validation: a run that goes on from there has the
    numbers of that validation in its event log. Carried along are the random state, so that a
    resumed run draws what the uninterrupted one draws, and the seconds that the run has taken.
    """

    def __init__(self, *, folder: Path, options: TrainerOptions) -> None:
        self.folder = folder
        self.options = options
        self._random_state: torch.Tensor | None = None
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Time since this was made, and what the run took before it was interrupted."""
        return time.monotonic() - self._began

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        if not self.options.validates_at(trainer.global_step):
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"random_state": torch.get_rng_state(), "seconds": self.seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._random_state = state_dict["random_state"]
        self._began -= state_dict["seconds"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._random_state is not None:
            torch.set_rng_state(self._random_state)

    def _save(self, trainer: pl.Trainer) -> None:
        if self.options.saves_at(trainer.global_step):
            trainer.save_checkpoint(self.folder / f"step_{trainer.global_step:08d}.ckpt")
            kept = self.options.keep_checkpoints
            saved = sorted(self.folder.glob("step_*.ckpt"))
            for old in saved[: 0 if kept is None else -kept]:
                old.unlink()
                old.with_suffix(_DIGEST).unlink(missing_ok=True)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a folder; damaged ones are passed over with a warning."""
    for path in sorted(folder.glob("step_*.ckpt"), reverse=True):
        if _is_whole(path):
            return path
        warnings.warn(f"{path} is damaged: going on from the one before it.", stacklevel=2)
    return None


def whole(folder: Path) -> list[Path]:
    """All whole checkpoints of a folder, the oldest first."""
    return [path for path in sorted(folder.glob("step_*.ckpt")) if _is_whole(path)]


def _is_whole(path: Path) -> bool:
    digest = path.with_suffix(_DIGEST)
    return digest.exists() and digest.read_text() == _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
