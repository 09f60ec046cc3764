"""Published systems: a name for a row of choices, read from conf/system/<name>.yaml.

source: Jiang et al. (2024), Mixtral of Experts, arXiv 2401.04088, section 2.1
equation: y = sum_i softmax(top2(x W))_i SwiGLU_i(x)
differs: nothing
choices: [tree=flat, "tree.spec=[8]", gate=top_down, selection=top_k, selection.k=2]
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def read_system(name: str, conf_dir: Path) -> System:
    """Read conf/system/<name>.yaml.

    Raises:
        ConfigError: the file is not what it should be.
    """
    file = conf_dir / "system" / f"{name}.yaml"
    try:
        said: Any = OmegaConf.to_container(OmegaConf.load(file))
        title = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        return System(title=title, **{**said, "choices": tuple(map(str, said["choices"]))})
    except (OmegaConfBaseException, YAMLError, OSError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{file}: must hold source, equation, differs and a list of choices: {error}"
        ) from error
