"""Runs as cells: what is there counts only if it is the same run, and has come to its end."""

import json
from pathlib import Path

import pytest

from hmoe.config import compose, to_yaml
from hmoe.errors import ConfigError, HmoeError
from hmoe.reproductions.record import Place
from hmoe.reproductions.runs import trained

WORDS = ["data=planted", "model=mlp", "trainer.max_steps=2"]


def place(folder: Path, **result: object) -> Place:
    """A cell whose run has ended with this result."""
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(compose([*WORDS, "trainer.threads=1"])))
    (run / "result.json").write_text(json.dumps(result))
    return Place(root=folder, folder=folder, size="cpu")


def test_a_run_that_is_there_is_not_trained_again(tmp_path: Path) -> None:
    there = place(tmp_path, state="complete", metrics={"val/loss": 3.0})
    assert trained(WORDS, there)["metrics"] == {"val/loss": 3.0}


def test_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    there = place(tmp_path, state="complete")
    with pytest.raises(ConfigError, match=r"other settings: trainer.max_steps: 2 -> 3\. Delete"):
        trained([*WORDS[:-1], "trainer.max_steps=3"], there)


def test_a_run_that_diverged_has_no_figures(tmp_path: Path) -> None:
    there = place(tmp_path, state="diverged", reason="loss nan", metrics={"val/loss": 3.0})
    with pytest.raises(HmoeError, match="diverged: loss nan"):
        trained(WORDS, there)
