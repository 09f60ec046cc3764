"""Probes: what a few steps foretell, by hand; and that they leave nothing behind."""

import time
from pathlib import Path

import pytest
import torch

from hmoe.config import build, compose, digest
from hmoe.data import Batch
from hmoe.errors import ConfigError
from hmoe.training import Learner, Probe, probe, shortened
from hmoe.training.probe import measure
from tests.tiny import RUN

FOUND = Probe(
    setup_s=2.0,
    step_s=0.25,
    validation_s=3.0,
    checkpoint_s=0.5,
    peak_bytes=1000,
    device="cpu",
    threads=1,
)


@pytest.mark.parametrize(
    ("steps", "every", "seconds"),
    [
        # Checkpoints come after 5, 10, 15 and 20 steps.
        (20, 10, 2 + 5 + 2 * 3 + 4 * 0.5),
        (20, 8, 2 + 5 + 3 * 3 + 4 * 0.5),  # after 8, 16 and at the end
        (20, 500, 2 + 5 + 3 + 4 * 0.5),
        (22, 500, 2 + 5.5 + 3 + 5 * 0.5),
    ],
)
def test_the_seconds_of_a_run_by_hand(steps: int, every: int, seconds: float) -> None:
    cfg = compose([*RUN, f"trainer.max_steps={steps}", f"trainer.val_every={every}"])
    assert FOUND.seconds(build(cfg.trainer)) == seconds


def test_runs_that_differ_in_length_alone_have_one_probe() -> None:
    one, longer, wider = (
        digest(shortened(compose([*RUN, *more])))
        for more in ([], ["trainer.max_steps=77", "trainer.log_every=7"], ["model.dim=24"])
    )
    assert one == longer != wider


def test_a_probe_measures_a_run_and_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = probe(compose([*RUN, "trainer.threads=1"]))
    assert 0 < found.step_s < 1
    assert min(found.validation_s, found.checkpoint_s) > 0
    assert (found.device, found.threads) == ("cpu", 1)
    assert found.peak_bytes > 50 * 2**20  # torch alone is more
    assert list(tmp_path.iterdir()) == []


def test_a_step_is_as_long_as_it_takes(monkeypatch) -> None:
    """A model that sleeps 30 ms: two steps are timed together, and one is told."""
    threads = torch.get_num_threads()
    learn = Learner.learn

    def slow(self: Learner, batch: Batch) -> None:
        time.sleep(0.03)
        learn(self, batch)

    monkeypatch.setattr(Learner, "learn", slow)
    found = measure(shortened(compose(RUN)))
    torch.set_num_threads(threads)
    assert 0.03 <= found.step_s < 0.1


def test_a_run_that_fails_at_once_says_why() -> None:
    with pytest.raises(ConfigError, match=r"failed: data\.batch_size=5000: must be at most 1079"):
        probe(compose([*RUN, "data.batch_size=5000"]))
