"""Every file of conf/data gives each argument of its class once, and makes the class."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from hmoe.data import Digits, RobotArm, Stdlib

CONF = Path(__file__).parents[2] / "conf" / "data"
FILES = sorted(CONF.glob("*.yaml"))


def load(path: Path) -> Any:
    return OmegaConf.create({"seed": 5, "data": OmegaConf.load(path)}).data


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_gives_exactly_the_arguments_of_its_class(path: Path) -> None:
    config = load(path)
    parameters = inspect.signature(get_class(config._target_)).parameters
    assert set(config) - {"_target_"} == set(parameters)
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert {p.default for p in parameters.values()} == {inspect.Parameter.empty}


@pytest.mark.parametrize(
    ("name", "kind"), [("digits", Digits), ("stdlib", Stdlib), ("robot_arm", RobotArm)]
)
def test_sets_that_need_no_files_of_the_user_are_made_as_they_stand(
    name: str, kind: type[Digits | RobotArm | Stdlib]
) -> None:
    data = instantiate(load(CONF / f"{name}.yaml"))
    assert isinstance(data, kind)
    assert data.seed == 5


@pytest.mark.parametrize("name", ["text", "idx_images"])
def test_sets_that_need_files_of_the_user_ask_for_them(name: str) -> None:
    with pytest.raises(InstantiationException, match=r"data\.root=null: must name"):
        instantiate(load(CONF / f"{name}.yaml"))


def test_a_set_of_the_hub_asks_for_its_name() -> None:
    with pytest.raises(InstantiationException, match=r"data\.name=null: must name"):
        instantiate(load(CONF / "hub.yaml"))
