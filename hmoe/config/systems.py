"""Names for rows of choices: published systems and experiments.

conf/system/<name>.yaml says who published it:

source: Jiang et al. (2024), Mixtral of Experts, arXiv 2401.04088, section 2.1
equation: y = sum_i softmax(top2(x W))_i SwiGLU_i(x)
differs: nothing
choices: [tree=flat, "tree.spec=[8]", gate=top_down, selection=top_k, selection.k=2]

conf/experiment/<name>.yaml says what it reached, in what time and on what:

score: test accuracy 0.971, 0.964 to 0.978 over 5 seeds
time: 9 s
hardware: 2 CPU cores
choices: [data=digits, "tree.spec=[4,4]"]
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from hmoe.errors import ConfigError


@dataclass(frozen=True)
class System:
    """A published system as choices.

    Attributes:
        title: what it is, in a line.
        source: who published it, when and where.
        equation: what it computes.
        differs: where hmoe's row differs from the paper.
        choices: overrides, as on the command line.
    """

    title: str
    source: str
    equation: str
    differs: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Experiment:
    """A whole run as choices.

    Attributes:
        title: what it is, in a line.
        score: what it reached, with seeds and spread.
        time: how long that took,
        hardware: on what.
        choices: overrides, as on the command line; a system may be among them.
    """

    title: str
    score: str
    time: str
    hardware: str
    choices: tuple[str, ...]


Row = TypeVar("Row", System, Experiment)


def read_system(name: str, conf_dir: Path) -> System:
    """Read conf/system/<name>.yaml.

    Raises:
        ConfigError: the file is not what it should be.
    """
    return _read(System, conf_dir / "system" / f"{name}.yaml")


def read_experiment(name: str, conf_dir: Path) -> Experiment:
    """Read conf/experiment/<name>.yaml.

    Raises:
        ConfigError: the file is not what it should be.
    """
    return _read(Experiment, conf_dir / "experiment" / f"{name}.yaml")


def _read(kind: type[Row], file: Path) -> Row:
    try:
        said: Any = OmegaConf.to_container(OmegaConf.load(file))
        title = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        return kind(title=title, **{**said, "choices": tuple(map(str, said["choices"]))})
    except (OmegaConfBaseException, YAMLError, OSError, TypeError, KeyError) as error:
        wanted = ", ".join(
            name for name in kind.__annotations__ if name not in ("title", "choices")
        )
        raise ConfigError(f"{file}: must hold {wanted} and a list of choices: {error}") from error
