"""Runs that inspections look at, trained once."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import train_in

PLANTED = (
    "data=planted",
    "data.truth.spec=[2,2]",
    "data.distance=[20,8]",
    "data.num_train=256",
    "data.num_val=600",
    "data.num_test=64",
    "data.batch_size=64",
    "model.depth=1",
    "model.dim=16",
    *("selection.k=1", "selection.weights=probs"),
    "balance=none",
    "trainer.max_steps=5",
)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The tiny run, with all its checkpoints, and its result."""
    folder = tmp_path_factory.mktemp("inspected") / "digits"
    return folder, train_in(folder, "trainer.keep_checkpoints=null")


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on data of 2 x 2 known experts."""
    folder = tmp_path_factory.mktemp("inspected") / "planted"
    train_in(folder, *PLANTED)
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a folder of two books, each in a language of its own."""
    root = tmp_path_factory.mktemp("inspected")
    for place, letters in (("low/a.txt", "abcd efgh "), ("high/b.txt", "WXYZ STUV\n")):
        (root / "books" / place).parent.mkdir(parents=True)
        (root / "books" / place).write_text(letters * 400)
    train_in(
        root / "text",
        "data=text",
        f"data.root={root / 'books'}",
        *("data.context=16", "data.batch_size=4"),
        "model=transformer",
        *("model.num_heads=2", "model.depth=2", "model.ffn_blocks=[1]"),
        "model.plain_ffn.experts.hidden_dim=16",
        "selection.k=2",
        "trainer.max_steps=5",
    )
    return root / "text"
