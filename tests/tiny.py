"""Runs and sweeps so small that tests train them: digits, two levels, a width of 16."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from hmoe.config import compose
from hmoe.training import Learner, train

# Digits have 16 batches an epoch: a run of 20 steps is in its second. Checkpoints come at 5, 10,
# 15, 20, validations at 8, 16 and the end.
RUN = (
    "data=digits",
    "model=mlp",
    "model.dim=16",
    "experts.hidden_dim=16",
    "tree.spec=[2,2]",
    "optim.warmup_steps=2",
    "trainer.max_steps=20",
    "trainer.val_every=8",
    "trainer.log_every=2",
    "trainer.checkpoint_every=5",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
)


class Killed(BaseException):
    """Stands for a kill: nothing in hmoe catches it."""


def train_in(
    folder: Path, *overrides: str, on_start: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Train the tiny run, with changes, in this process."""
    cfg = compose([*RUN, *overrides])
    return train(cfg, folder, command="hmoe train", progress=False, on_start=on_start)


@contextmanager
def killed(where: str, step: int) -> Iterator[None]:
    """Kill the run in a method of the learner, after `step` steps."""
    method = getattr(Learner, where)

    def deadly(self: Learner, *args: Any) -> Any:
        if self.global_step == step:
            raise Killed
        return method(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, where, deadly)
        try:
            yield
        except Killed:
            return
        pytest.fail(f"the run never came to {where} after step {step}")


def checkpoint(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a run, read without running code."""
    newest = max((folder / "checkpoints").glob("*.ckpt"))
    return torch.load(newest, weights_only=True)


def same(one: Any, other: Any) -> bool:
    """Whether two nested containers are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def events(folder: Path) -> list[dict[str, Any]]:
    """The lines of the event log."""
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def curve(folder: Path, key: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, the last line of a step counting."""
    found = {e["step"]: e["metrics"][key] for e in events(folder) if key in e["metrics"]}
    return sorted(found.items())


def sweep_overrides(runs: Path, *changes: str, name: str = "tiny", steps: int = 20) -> list[str]:
    """A command line that makes of the sweep `hierarchy` one of seconds: dense against 2 x 2."""
    common = [*RUN, "balance=switch", f"trainer.max_steps={steps}"]
    tree = "tree:{overrides:['tree.spec=[2,2]']}"
    dense = "dense:{overrides:['model=mlp_dense','balance=none'],dial:experts.hidden_dim}"
    return [
        "sweep=hierarchy",
        f"name={name}",
        f"runs={runs}",
        "objectives=[val/loss,val/load/cv/expert]",
        "contract={match:active_params,reference:tree,tolerance:0.1}",
        f"overrides=[{','.join(repr(override) for override in common)}]",
        f"arms={{{dense},{tree}}}",
        "budget.trials=4",
        "workers=2",
        "confirm=null",
        *changes,
    ]
