"""What a run may choose about its optimiser and its loop, checked before any work starts."""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import cos, gcd, pi
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from hmoe.errors import ConfigError

Precision = Literal["32-true", "bf16-mixed", "bf16-true"]


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW (Loshchilov & Hutter 2019) with linear warm-up and cosine decay to zero.

    Raises:
        ConfigError: a rate, decay or moment outside its range.
    """

    lr: float
    weight_decay: float
    betas: Sequence[float]
    warmup_steps: int

    def __post_init__(self) -> None:
        _require("optim.lr", self.lr, self.lr > 0, "a number above 0")
        _require("optim.weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        _require("optim.warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "at least 0")
        two_moments = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _require("optim.betas", list(self.betas), two_moments, "two numbers from 0 to below 1")

    def make(self, model: nn.Module, max_steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """The optimiser over a model's parameters, and its schedule in steps."""
        optimizer = torch.optim.AdamW(
            [
                {"params": _of_dim(model.parameters(), matrices=True)},
                {"params": _of_dim(model.parameters(), matrices=False), "weight_decay": 0.0},
            ],
            lr=self.lr,
            betas=(self.betas[0], self.betas[1]),
            weight_decay=self.weight_decay,
            fused=True,
        )
        return optimizer, LambdaLR(optimizer, lambda step: self.factor(step, max_steps))

    def factor(self, step: int, max_steps: int) -> float:
        """Share of the full learning rate at a step counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps)
        return 0.5 * (1 + cos(pi * min(1.0, done)))


def _of_dim(parameters: Iterable[nn.Parameter], *, matrices: bool) -> list[nn.Parameter]:
    return [p for p in parameters if (p.ndim > 1) == matrices]


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How long a run trains, how often it looks up, in which precision and where.

    Raises:
        ConfigError: a count below 1, bfloat16 on a device without it, or a model to be compiled
            without a C++ compiler.
    """

    max_steps: int
    val_every: int
    log_every: int
    checkpoint_every: int
    keep_checkpoints: int | None
    precision: Precision
    matmul_precision: Literal["highest", "high", "medium"]
    compile: bool
    accelerator: Literal["auto", "cpu", "gpu"]
    threads: int | None
    clip_norm: float

    def __post_init__(self) -> None:
        for name in ("max_steps", "val_every", "log_every", "checkpoint_every"):
            value = getattr(self, name)
            _require(f"trainer.{name}", value, value >= 1, "a whole number of at least 1")
        if self.keep_checkpoints is not None:
            kept = self.keep_checkpoints
            _require("trainer.keep_checkpoints", kept, kept >= 1, "at least 1, or null for all")
        if self.threads is not None:
            _require("trainer.threads", self.threads, self.threads >= 1, "at least 1, or null")
        _require("trainer.clip_norm", self.clip_norm, self.clip_norm > 0, "a number above 0")
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise ConfigError(
                "trainer.accelerator = gpu: no CUDA device is at hand. Use auto or cpu."
            )
        on_gpu = self.accelerator != "cpu" and torch.cuda.is_available()
        if self.precision != "32-true" and on_gpu and not torch.cuda.is_bf16_supported(False):
            raise ConfigError(
                f"trainer.precision = {self.precision}: {torch.cuda.get_device_name()} has no "
                "bfloat16. Use 32-true."
            )
        compiler = os.environ.get("CXX", "g++")
        if self.compile and not on_gpu and shutil.which(compiler) is None:
            raise ConfigError(
                "trainer.compile = true: torch.compile needs a C++ compiler on a CPU, and there is "
                f"no '{compiler}'. Install one, or use trainer.compile=false."
            )

    @property
    def stretch(self) -> int:
        """Steps that can be taken at a time: no line, validation, checkpoint or end is between."""
        moments = (self.log_every, self.val_every, self.checkpoint_every)
        return gcd(self.max_steps, *(min(every, self.max_steps) for every in moments))

    def validates_at(self, step: int) -> bool:
        """Whether the loop validates after this step."""
        return step % min(self.val_every, self.max_steps) == 0

    def saves_at(self, step: int) -> bool:
        """Whether the loop saves a checkpoint after this step: at intervals, and at the end."""
        return step % self.checkpoint_every == 0 or step == self.max_steps


def _require(name: str, value: object, holds: bool, what: str) -> None:
    if not holds:
        raise ConfigError(f"{name} = {value}: expected {what}.")
