"""Evaluation: scores are means over items, whatever the sizes of the batches."""

import warnings
from pathlib import Path

import pytest
import torch

from hmoe.config import compose
from hmoe.data import SplitLoader
from hmoe.training import assemble, make_trainer


def test_batches_count_by_their_size(tmp_path: Path) -> None:
    parts = assemble(compose(["data=digits", "model=mlp"]))
    learner = parts.learner(tmp_path)
    x = torch.randn(10, 64)
    with torch.no_grad():
        label = parts.model(x)[0].argmax(-1)
    label[8:] = (label[8:] + 1) % 10  # eight of ten are right: seven of seven, then one of three
    batches = SplitLoader(num_rows=10, batch_size=7, batch_of=lambda i: {"x": x[i], "y": label[i]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = make_trainer(parts.options, tmp_path, [])
        trainer.validate(learner, dataloaders=batches, verbose=False)
    assert learner.final["val/accuracy"] == pytest.approx(0.8)
