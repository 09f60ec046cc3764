"""A probe: a few steps of a run, measured, which foretell what all of it takes. Leaves no files."""

import os
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from hmoe.data import Batch
from hmoe.data.loader import SplitLoader
from hmoe.errors import ConfigError, HmoeError
from hmoe.training.child import start_server
from hmoe.training.learner import DivergedError, stretches
from hmoe.training.options import TrainerOptions
from hmoe.training.process import keep_memory, spared_collection
from hmoe.training.train import make_trainer, prepare

_STRETCH = 2  # steps that are measured together; the first stretch is not measured
_SECONDS = 0.6  # measured at least
_MOST_STEPS = 1000
_BATCHES = 2  # of the validation set


@dataclass(frozen=True)
class Probe:
    """What was measured of a run.

    Attributes:
        setup_s: until the first step, with what the first steps take beyond later ones.
        step_s: one training step, a median.
        validation_s: one pass over the validation set.
        checkpoint_s: one checkpoint, in the system's folder for temporary files.
        peak_bytes: most memory, of the GPU where there is one, else of the whole process.
        device: "cuda" or "cpu".
        threads: CPU threads it had.
    """

    setup_s: float
    step_s: float
    validation_s: float
    checkpoint_s: float
    peak_bytes: int
    device: str
    threads: int

    def seconds(self, options: TrainerOptions) -> float:
        """Foretell the seconds of a whole run of so many steps, validations and checkpoints."""
        return (
            self.setup_s
            + options.max_steps * self.step_s
            + ceil(options.max_steps / options.val_every) * self.validation_s
            + ceil(options.max_steps / options.checkpoint_every) * self.checkpoint_s
        )


def shortened(cfg: DictConfig) -> DictConfig:
    """The configuration of the probe: runs that differ in their length alone have the same."""
    short = OmegaConf.merge(cfg)
    assert isinstance(short, DictConfig)
    every = {"max_steps": _MOST_STEPS, "val_every": _MOST_STEPS, "checkpoint_every": _MOST_STEPS}
    for key, value in {**every, "log_every": _STRETCH}.items():
        OmegaConf.update(short, f"trainer.{key}", value)
    return short


def probe(cfg: DictConfig) -> Probe:
    """Take a few steps in a process of its own, with the threads that `cfg` says.

    Raises:
        ConfigError: the run fails in its first steps.
    """
    context = start_server(cfg.trainer.threads)
    ours, theirs = context.Pipe(duplex=False)
    plain = OmegaConf.to_container(shortened(cfg))
    process = context.Process(target=_main, args=(plain, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        process.join()
        found = f"its process was lost (exit status {process.exitcode})"
    finally:
        process.kill()
        process.join()
        ours.close()
    if isinstance(found, Probe):
        return found
    raise ConfigError(f"the probe, its first steps, failed: {found}")


def measure(cfg: DictConfig) -> Probe:
    """Take a few steps of a shortened configuration in this process."""
    clock = _Clock()
    parts = prepare(cfg)
    validation = parts.data.val_dataloader()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        options, learner = parts.options, parts.learner(Path(folder))
        trainer = make_trainer(options, Path(folder), [clock])
        try:
            trainer.fit(learner, train_dataloaders=stretches(parts.data, trainer, options))
            trainer.validate(learner, _First(validation), verbose=False)
            before = _now()
            trainer.save_checkpoint(Path(folder) / "probe.ckpt")
            checkpoint_s = _now() - before
        except DivergedError as error:
            raise ConfigError(str(error)) from error
    device = trainer.strategy.root_device.type
    step_s = median(clock.stretches_s[1:]) / _STRETCH
    batch_s = clock.validation_s / min(_BATCHES, len(validation))
    return Probe(
        setup_s=max(0.0, clock.first_s - _STRETCH * step_s),
        step_s=step_s,
        validation_s=batch_s * len(validation),
        checkpoint_s=checkpoint_s,
        peak_bytes=torch.cuda.max_memory_allocated() if device == "cuda" else _peak_of_process(),
        device=device,
        threads=torch.get_num_threads(),
    )


class _Clock(pl.Callback):
    """Times stretches of steps, and stops when it has enough."""

    def __init__(self) -> None:
        self._made = self._began = time.perf_counter()
        self.first_s = 0.0
        self.stretches_s: list[float] = []
        self.validation_s = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        now = _now()
        # From the end of the last: loading a batch is part of a step.
        self.stretches_s.append(now - self._began)
        self._began = now
        if len(self.stretches_s) == 1:
            self.first_s = now - self._made
        elif sum(self.stretches_s[1:]) > _SECONDS:
            trainer.should_stop = True

    def on_validation_start(self, *_: Any) -> None:
        self._began = _now()

    def on_validation_end(self, *_: Any) -> None:
        self.validation_s = _now() - self._began


class _First:
    """The first batches of a pass."""

    def __init__(self, loader: SplitLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return min(_BATCHES, len(self._loader))

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch, _ in zip(self._loader, range(len(self)), strict=False))


def _now() -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_of_process() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _main(cfg: dict[str, Any], answer: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    keep_memory()
    try:
        with spared_collection():
            answer.send(measure(OmegaConf.create(cfg)))
    except HmoeError as error:
        answer.send(str(error))
    except Exception as error:
        answer.send(f"{type(error).__name__}: {error}")
