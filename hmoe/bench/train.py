"""Training through hmoe against a bare torch loop over the same model, in turns."""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from hmoe.bench.measure import AIM_COLUMNS, Aim, save, spread, table, wide_console
from hmoe.bench.plot import plot_ratios
from hmoe.config import compose
from hmoe.training import assemble, make_trainer, stretches

# Small steps show the overhead of the loop, large ones what a user will see.
_CASES = {
    "digits, residual MLP, 4x4": ("data=digits", "model=mlp", "trainer.max_steps=300"),
    "stdlib, transformer, 4x4": ("data=stdlib", "model=transformer", "trainer.max_steps=12"),
}
_AIM = 0.95


@dataclass(frozen=True)
class Ratio:
    """One case: seconds of both sides and their ratios, pair by pair."""

    case: str
    steps: int
    hmoe_s: list[float]
    bare_s: list[float]

    @property
    def ratios(self) -> list[float]:
        """Steps per second through hmoe over steps per second of the bare loop."""
        return [bare / hmoe for hmoe, bare in zip(self.hmoe_s, self.bare_s, strict=True)]


def bench_train(*, rounds: int, out: Path, overrides: Sequence[str], command: str) -> Path:
    """Training steps per second through hmoe against a bare torch loop over the same model.

    Prints tables, writes `train.json` and `train.svg` into `out`, returns the path of the first.
    """
    results = []
    for case, choices in _CASES.items():
        cfg = compose([*choices, *overrides])
        _hmoe_seconds(cfg), _bare_seconds(cfg)  # once unmeasured: caches, threads, page faults
        pairs = [(_hmoe_seconds(cfg), _bare_seconds(cfg)) for _ in range(rounds)]
        hmoe_s, bare_s = map(list, zip(*pairs, strict=True))
        results.append(Ratio(case, cfg.trainer.max_steps, hmoe_s, bare_s))
    cases = [_row(r) for r in results]
    aims = [Aim(row["case"], row["ratio"]["median"], _AIM, "at least").row() for row in cases]
    console = wide_console()
    title = "Training steps per second: hmoe / bare torch loop"
    plot_ratios(
        cases,
        out / "train.svg",
        name=lambda row: str(row["case"]),
        title=title,
        x_label="median, lowest and highest turn",
        aim=_AIM,
    )
    console.print(table(title, cases, ("case", "ratio", "hmoe_steps_per_s")))
    console.print(table("aims", aims, AIM_COLUMNS))
    return save({"cases": cases, "aims": aims}, suite="train", out=out, command=command)


def _row(r: Ratio) -> dict[str, Any]:
    return {
        "case": r.case,
        "steps": r.steps,
        "ratio": spread(r.ratios),
        "hmoe_steps_per_s": r.steps / statistics.median(r.hmoe_s),
        "hmoe_s": r.hmoe_s,
        "bare_s": r.bare_s,
    }


class _Clock(pl.Callback):
    """Seconds from the first step to the last, without what comes before and after."""

    seconds = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        self.seconds = time.perf_counter() - self._start


def _hmoe_seconds(cfg: DictConfig) -> float:
    """The steps as `hmoe train` takes them, event log included, checkpoints not."""
    parts = _seeded(cfg)
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # No validation is the point here.
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        learner = parts.learner(Path(folder))
        trainer = make_trainer(parts.options, Path(folder), [clock])
        stream = stretches(parts.data, trainer, parts.options)
        trainer.fit(learner, train_dataloaders=stream)
    return clock.seconds


def _bare_seconds(cfg: DictConfig) -> float:
    """The same steps in a loop of plain torch: the same losses, clipping and schedule."""
    parts = _seeded(cfg)
    parts.balance.attach(parts.model)
    steps = parts.options.max_steps
    optimizer, schedule = parts.optim.make(parts.model, steps)
    loss_of: Callable[..., torch.Tensor] = parts.task.training_loss
    start = time.perf_counter()
    for step in range(steps):
        batch = parts.data.train_batch(step)
        output, routings = parts.model(batch["x"])
        loss = loss_of(output, batch["y"]) + parts.balance.loss(routings)[0]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts.model.parameters(), parts.options.clip_norm)
        optimizer.step()
        schedule.step()
    return time.perf_counter() - start


def _seeded(cfg: DictConfig) -> Any:
    torch.manual_seed(cfg.seed)
    parts = assemble(cfg)
    parts.data.setup()
    return parts
