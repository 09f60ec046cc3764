"""conf/experiment/: every one says what it reached, and trains a step on made and on real data."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from hmoe.config import CONF, compose, expand, options, read_experiment, read_system
from hmoe.data import KNOWN_SETS
from hmoe.errors import ConfigError
from hmoe.training import assemble, mean_of
from tests.made import MADE, made_sets, write_set
from tests.made.tables import BLOCKS

EXPERIMENTS = options("experiment")
REAL = Path(os.environ.get("HMOE_DATA", CONF.parent / "../shared/data"))
UNMEASURED = "not measured here: no files"
# What a step costs is not what is tested: small widths, small batches.
SMALL = ["trainer.max_steps=1", "trainer.log_every=1", "optim.warmup_steps=0"]


def set_of(cfg: DictConfig) -> str | None:
    """The known set that an experiment reads, by the name of its default root."""
    root = cfg.data.get("root")
    return None if root is None else Path(root).name


def small(cfg: DictConfig) -> DictConfig:
    """The same with batches that made data can fill."""
    cfg.data.batch_size = 4
    if "blocks" in cfg.data:
        cfg.data.blocks = list(BLOCKS)
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
    for said in (experiment.score, experiment.time):
        assert said == UNMEASURED or any(character.isdigit() for character in said)
    assert (experiment.score == UNMEASURED) == (experiment.time == UNMEASURED)
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


def row(tmp_path: Path, *choices: str) -> Path:
    """A configuration of its own in which `experiment=mine` makes these choices."""
    copy = tmp_path / "conf"
    shutil.copytree(CONF, copy)
    said = {"score": "1", "time": "1 s", "hardware": "a machine", "choices": list(choices)}
    (copy / "experiment" / "mine.yaml").write_text(f"# Mine.\n{json.dumps(said)}\n")
    return copy


def test_an_experiment_stands_for_its_choices_and_what_comes_later_wins(tmp_path: Path) -> None:
    conf = row(tmp_path, "data=digits", "tree=grid", "tree.spec=[4,4]", "selection.k=3")
    assert expand(["seed=1", "experiment=mine", "seed=2"], conf_dir=conf) == [
        *("seed=1", "data=digits", "tree=grid", "tree.spec=[4,4]", "selection.k=3", "seed=2")
    ]
    # A group chosen anew takes all that the experiment said of it along.
    assert expand(["experiment=mine", "tree=flat"], conf_dir=conf) == [
        *("data=digits", "selection.k=3", "tree=flat")
    ]
    cfg = compose(["experiment=mine", "selection.k=1"], conf_dir=conf)
    assert (cfg.experiment, cfg.system, cfg.selection.k) == ("mine", None, 1)
    assert list(cfg.tree.spec) == [4, 4]


def test_of_a_system_and_an_experiment_the_later_wins(tmp_path: Path) -> None:
    mixtral, switch = (read_system(name, CONF).choices for name in ("mixtral", "switch"))
    conf = row(tmp_path, "data=digits", "system=mixtral", "seed=5")
    inner = expand(["experiment=mine"], conf_dir=conf)
    assert inner == ["data=digits", *mixtral, "seed=5"]
    assert expand(["system=switch", "experiment=mine"], conf_dir=conf) == inner
    assert expand(["experiment=mine", "system=switch"], conf_dir=conf) == [
        *("data=digits", "seed=5", *switch)
    ]
    later = compose(["experiment=mine", "system=switch"], conf_dir=conf)
    assert (later.experiment, later.system) == ("mine", "switch")
    assert compose(["experiment=mine"], conf_dir=conf).system == "mixtral"
    assert expand(["experiment=digits", "experiment=mine"], conf_dir=conf) == inner


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("experiment=digitz", "Did you mean 'digits'?"),
        ("experiment=[digits]", "the name of one experiment is expected"),
    ],
)
def test_a_wrong_name_is_told(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        compose([override])
    with pytest.raises(ConfigError, match="systems and experiments are choices of `hmoe train`"):
        compose(["experiment=digits"], root="em")


def test_a_file_that_says_too_little_is_told(tmp_path: Path) -> None:
    conf = row(tmp_path, "data=digits")
    (conf / "experiment" / "mine.yaml").write_text("# Mine.\nscore: 1\nchoices: []\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: must hold .*hardware"):
        compose(["experiment=mine"], conf_dir=conf)
