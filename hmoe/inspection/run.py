"""TrainedRun: a run from its folder, with the weights of a checkpoint, to be looked at."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from hmoe.data import Batch, SplitLoader, StreamData
from hmoe.errors import ConfigError, DataError, check_names
from hmoe.layer import HMoE, Routing
from hmoe.models import Vit
from hmoe.training import CONFIG, Parts, Task, assemble, mean_of, whole

SPLITS = ("val", "test")


@dataclass
class TrainedRun:
    """A run whose model stands still.

    Attributes:
        folder: the run folder.
        cfg: its configuration, resolved.
        data: its data, read.
        model: its model, in evaluation, on `device`.
        task: what the data ask of it.
        layers: the mixture layers by their place in the model, in order.
        checkpoints: the whole ones, the oldest first. Loaded is the last, until `load`.
        device: where it computes.
        step: the training step that the loaded weights are from.
    """

    folder: Path
    cfg: DictConfig
    data: StreamData
    model: nn.Module
    task: Task
    layers: dict[str, HMoE]
    checkpoints: tuple[Path, ...]
    device: torch.device
    step: int = -1

    def load(self, checkpoint: Path) -> None:
        """Put the weights of a checkpoint into the model.

        Raises:
            DataError: it cannot be read, or belongs to another model.
        """
        try:
            saved = torch.load(checkpoint, map_location=self.device, weights_only=True)
            state = saved["state_dict"]
            own = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
            self.model.load_state_dict(own)
        except (OSError, KeyError, RuntimeError, UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{checkpoint}: is no checkpoint of this run ({reason}).") from error
        self.step = int(saved["global_step"])

    def pass_over(self, split: str, tokens: int) -> SplitLoader:
        """At most so many tokens of a split, in whole rows, evenly spread over all of it.

        Raises:
            ConfigError: there is no such split, or not even one row is asked for.
        """
        check_names("split", [split], SPLITS)
        if tokens < self.tokens_per_row:
            raise ConfigError(
                f"tokens = {tokens}: a row of the data has {self.tokens_per_row}; ask for as many "
                "or more."
            )
        return self.data.pass_over(split).spread(tokens // self.tokens_per_row)

    @property
    def tokens_per_row(self) -> int:
        """Tokens of a row of the data: the bytes of a window, the patches of a picture, or one."""
        if self.data.input_kind == "tokens":
            return self.data.context
        return self.model.num_patches if isinstance(self.model, Vit) else 1

    def answer(self, batch: Batch) -> tuple[Tensor, list[Routing]]:
        """The loss of the model on a batch, and the routing of every mixture layer."""
        x, y = batch["x"].to(self.device), batch["y"].to(self.device)
        with torch.inference_mode(), self._precision():
            output, routings = self.model(self._cast(x))
            return self.task.loss(mean_of(output), y), routings

    def scores(self, x: Tensor) -> Tensor:
        """What the model answers to some inputs, in float32 on the CPU."""
        with torch.inference_mode(), self._precision():
            output, _ = self.model(self._cast(x.to(self.device)))
            return mean_of(output).float().cpu()

    def loss(self, batches: SplitLoader) -> float:
        """The mean loss of the model over all items of some batches."""
        total, num_items = 0.0, 0
        for batch in batches:
            total += self.answer(batch)[0].item() * batch["y"].numel()
            num_items += batch["y"].numel()
        return total / num_items

    @cached_property
    def _precision(self) -> Callable[[], Any]:
        if self.cfg.trainer.precision != "bf16-mixed":
            return nullcontext
        return lambda: torch.autocast(self.device.type, torch.bfloat16)

    def _cast(self, x: Tensor) -> Tensor:
        """Vectors in the precision of the weights."""
        return x.to(next(self.model.parameters()).dtype) if x.is_floating_point() else x


def load_run(folder: Path, checkpoints: Path | None = None) -> TrainedRun:
    """The run of a folder, as its newest whole checkpoint has it.

    Args:
        folder: the run folder.
        checkpoints: where its checkpoints are; None: in the run folder.

    Raises:
        ConfigError: no run of `hmoe train` or of a sweep is there, it has no checkpoint, or it
            diverged.
        DataError: its data or a checkpoint cannot be read.
    """
    said = f"RUN = {folder}:"
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{said} holds no {CONFIG}, so it is not the folder of a run.")
    cfg = OmegaConf.load(folder / CONFIG)
    if not isinstance(cfg, DictConfig) or "model" not in cfg:
        raise ConfigError(f"{said} was fitted by EM; there is no gate to look at by batches.")
    result = folder / "result.json"
    if result.is_file() and json.loads(result.read_text())["state"] == "diverged":
        raise ConfigError(f"{said} diverged; its weights are no numbers.")
    checkpoints = checkpoints or folder / "checkpoints"
    found = whole(checkpoints)
    if not found:
        raise ConfigError(f"{said} {checkpoints} holds no whole checkpoint. Train it first.")
    try:
        parts = assemble(cfg)
    except ConfigError as error:
        raise ConfigError(f"{said} its settings no longer make a model: {error}") from error
    parts.data.setup()
    run = TrainedRun(
        folder=folder,
        cfg=cfg,
        data=parts.data,
        model=_placed(parts),
        task=parts.task,
        layers={n: m for n, m in parts.model.named_modules() if isinstance(m, HMoE)},
        checkpoints=tuple(found),
        device=_device(parts),
    )
    run.load(found[-1])
    return run


def digest_of(run: TrainedRun, batches: SplitLoader) -> str:
    """Which tokens some batches hold: runs with the same digest were asked about the same ones.

    SHA-256 of the digest of the data and of the inputs, rounded, since another machine's products
    differ in the last bits.
    """
    digest = sha256(run.data.digest.encode())
    for batch in batches:
        digest.update((np.round(batch["x"].numpy(), 4) + 0).tobytes())
    return digest.hexdigest()


def _device(parts: Parts) -> torch.device:
    on_gpu = parts.options.accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def _placed(parts: Parts) -> nn.Module:
    """The model where it is to compute, in its precision, in evaluation."""
    model = parts.model.to(_device(parts)).eval()
    return model.to(torch.bfloat16) if parts.options.precision == "bf16-true" else model
