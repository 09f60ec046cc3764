"""The loop: stretches of steps give what single steps give; nothing leaves the device between."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hmoe.config import compose
from hmoe.training import Learner, Parts, TrainerOptions, assemble
from tests.tiny import RUN, checkpoint, events, same, train_in

IN_ONE = ("trainer.log_every=10", "trainer.val_every=20", "trainer.checkpoint_every=20")


# ------------------------------------------------------------------- how many steps at a time


@pytest.mark.parametrize(
    ("max_steps", "log", "val", "save", "stretch"),
    [
        (500, 20, 250, 250, 10),  # 20 and 250 have 10 in common
        (20, 2, 8, 5, 1),
        (300, 20, 1000, 1000, 20),  # what comes after the end does not count
        (300, 1000, 1000, 1000, 300),
        (7, 7, 7, 7, 7),
        (301, 20, 100, 100, 1),
    ],
)
def test_a_stretch_ends_wherever_something_is_due(max_steps, log, val, save, stretch):
    options = compose(
        [
            f"trainer.max_steps={max_steps}",
            f"trainer.log_every={log}",
            f"trainer.val_every={val}",
            f"trainer.checkpoint_every={save}",
        ]
    ).trainer
    options = TrainerOptions(**{key: options[key] for key in options if key != "_target_"})
    assert options.stretch == stretch
    due = (step for step in range(1, max_steps + 1) if step % log == 0 or options.saves_at(step))
    assert all(step % stretch == 0 for step in due)


# ------------------------------------------------------------------- the same as a bare loop


def bare_loop(parts: Parts, autocast: bool) -> list[tuple[float, dict[str, Tensor]]]:
    """Loss and balance of every step, by torch alone."""
    parts.data.setup()
    optimizer, schedule = parts.optim.make(parts.model, parts.options.max_steps)
    told = []
    for step in range(parts.options.max_steps):
        batch = parts.data.train_batch(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output, routings = parts.model(batch["x"])
            loss = parts.task.training_loss(output, batch["y"])
            penalty, values = parts.balance.loss(routings)
        optimizer.zero_grad()
        (loss + penalty).backward()
        torch.nn.utils.clip_grad_norm_(parts.model.parameters(), parts.options.clip_norm)
        optimizer.step()
        schedule.step()
        parts.balance.step(parts.model, routings)
        told.append((loss.item(), values))
    return told


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("intervals", [(), IN_ONE], ids=["single steps", "stretches of 10"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("balance", ["switch", "bias"])
def test_a_run_is_a_bare_loop_bit_for_bit(intervals, precision, balance, tmp_path):
    """Weights, and the lines: the mean loss since the last one, the balance of its own step."""
    choices = (*intervals, f"trainer.precision={precision}", f"balance={balance}")
    train_in(tmp_path / "run", *choices)
    cfg = compose([*RUN, *choices])
    torch.manual_seed(cfg.seed)
    parts = assemble(cfg)
    told = bare_loop(parts, autocast=precision == "bf16-mixed")
    state = checkpoint(tmp_path / "run")["state_dict"]
    ours = {key.removeprefix("model."): v for key, v in state.items() if key.startswith("model.")}
    assert same(ours, dict(parts.model.state_dict()))

    every = cfg.trainer.log_every
    lines = [line for line in events(tmp_path / "run") if "train/loss" in line["metrics"]]
    assert [line["step"] for line in lines] == list(range(every, 21, every))
    for line in lines:
        since = [loss for loss, _ in told[line["step"] - every : line["step"]]]
        assert line["metrics"]["train/loss"] == pytest.approx(math.fsum(since) / every, rel=1e-6)
        _, values = told[line["step"] - 1]
        found = {k: v for k, v in line["metrics"].items() if k.startswith("train/balance/")}
        assert found == {f"train/balance/{key}": value.item() for key, value in values.items()}


# ------------------------------------------------------------------- nothing leaves the device


class Transfers(TorchDispatchMode):
    """Count the operations that wait for the device and hand a number to the host."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        self.count += func in waits
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, extra: bool = False) -> Iterator[Transfers]:
    """Count in the second stretch of a run; `extra` asks for one number.

    The first makes the tree's tables of node numbers, once in a process.
    """
    step, transfers = Learner.training_step, Transfers()

    def watched(self: Learner, batches: list, batch_idx: int) -> None:
        with transfers if batch_idx == 1 else nullcontext():
            step(self, batches, batch_idx)
            if extra:
                self.model.state_dict()[next(iter(self.model.state_dict()))].sum().item()

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "training_step", watched)
        yield transfers


@pytest.mark.parametrize(
    "choices",
    [("balance=switch",), ("balance=bias",), ("model=mlp_dense", "balance=none")],
    ids=["switch", "bias", "dense"],
)
def test_no_step_waits_for_a_number(choices, tmp_path, monkeypatch):
    """A line is read off a copy, `tolist`, which on the CPU is no operation and on a GPU one."""
    with counted(monkeypatch) as transfers:
        train_in(tmp_path / "run", *IN_ONE, "test=false", *choices)
    assert transfers.count == 0


def test_a_number_asked_for_is_counted(tmp_path, monkeypatch):
    with counted(monkeypatch, extra=True) as transfers:
        train_in(tmp_path / "run", *IN_ONE, "test=false")
    assert transfers.count == 1


def test_a_line_costs_one_transfer(tmp_path, monkeypatch):
    """All numbers of a line leave together; `Tensor.tolist` is how."""
    right, called = Tensor.tolist, []
    monkeypatch.setattr(Tensor, "tolist", lambda self: called.append(self.shape) or right(self))
    parts = assemble(compose([*RUN, "balance=switch"]))
    parts.data.setup()
    learner = parts.learner(tmp_path)
    written: list[dict[str, float]] = []

    class Log:
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            written.append(metrics)

    monkeypatch.setattr(Learner, "logger", Log())
    monkeypatch.setattr(Learner, "optimizers", lambda self: parts.optim.make(self.model, 20)[0])
    monkeypatch.setattr(Learner, "global_step", 3)
    losses = [learner.loss(parts.data.train_batch(step))[0].item() for step in range(3)]
    called.clear()
    with (transfers := Transfers()):
        learner._write_training()
    assert called == [torch.Size([3])]  # the loss, and the balance of two levels
    assert transfers.count == 0
    assert set(written[0]) == {
        *("train/loss", "train/lr"),
        *(f"train/balance/switch/level_{n}" for n in (0, 1)),
    }
    assert written[0]["train/loss"] < sum(losses) / 3  # the balance is no part of it
