"""conf/experiment/: every one says what it reached, and trains a step on made and on real data."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from hmoe.config import CONF, compose, options, read_experiment
from hmoe.data import KNOWN_SETS
from hmoe.training import assemble, mean_of
from tests.made import MADE, made_sets, write_set

EXPERIMENTS = options("experiment")
REAL = Path(os.environ.get("HMOE_DATA", CONF.parent / "../shared/data"))
# What a step costs is not what is tested: small widths, small batches.
SMALL = ["trainer.max_steps=1", "trainer.log_every=1", "optim.warmup_steps=0"]


def set_of(cfg: DictConfig) -> str | None:
    """The known set that an experiment reads, by the name of its default root."""
    root = cfg.data.get("root")
    return None if root is None else Path(root).name


def small(cfg: DictConfig) -> DictConfig:
    """The same with batches that made data can fill."""
    cfg.data.batch_size = 4
    return cfg


def trains_a_step(cfg: DictConfig) -> None:
    parts = assemble(cfg)
    learner = parts.learner(Path())
    parts.data.setup()
    optimizer = learner.configure_optimizers()["optimizer"]
    before = [parameter.detach().clone() for parameter in parts.model.parameters()]
    loss, _ = learner.loss(parts.data.train_batch(0))
    loss.backward()
    assert torch.isfinite(loss)
    optimizer.step()
    after = parts.model.parameters()
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    batch = next(iter(parts.data.val_dataloader()))
    parts.model.eval()
    with torch.no_grad():
        output, _ = parts.model(batch["x"])
    assert torch.isfinite(parts.task.loss(mean_of(output), batch["y"]))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_score_time_and_hardware(name: str) -> None:
    experiment = read_experiment(name, CONF)
    assert experiment.title.endswith(".")
    assert any(character.isdigit() for character in experiment.score)
    assert any(character.isdigit() for character in experiment.time)
    assert experiment.hardware


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("sets")
    for name in MADE:
        write_set(name, root)
    with made_sets():
        yield root


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_a_step_on_made_data(name: str, made: Path) -> None:
    cfg = compose([f"experiment={name}", *SMALL])
    if (known := set_of(cfg)) is not None:
        cfg.data.root = str(made / known)
    trains_a_step(small(cfg))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_a_step_on_real_data(name: str) -> None:
    cfg = compose([f"experiment={name}", *SMALL])
    if (known := set_of(cfg)) is not None:
        cfg.data.root = str(REAL / known)
        if not (REAL / known).is_dir():
            pytest.skip(f"{known} is not here: hmoe fetch {known}, and HMOE_DATA=data")
    trains_a_step(cfg)


def test_every_known_set_has_made_files_of_the_same_names() -> None:
    assert MADE.keys() == KNOWN_SETS.keys()
    for name, known in KNOWN_SETS.items():
        assert MADE[name]().keys() == {file.name for file in known.files}
