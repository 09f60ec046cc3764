"""Groups of the configuration: which there are, and what Hydra composes of choices among them."""

import os
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from hmoe.errors import ConfigError, nearest

_PACKAGE = Path(__file__).parents[1]
# A wheel carries the configuration inside the package; a checkout keeps it at the top.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"


def options(group: str, conf_dir: Path = CONF) -> list[str]:
    """The options of a config group, e.g. `options("data")` -> ["digits", "stdlib"]."""
    groups = group_names(conf_dir)
    if group not in groups:
        raise ConfigError(
            f"{group}: no such group.{nearest(group, groups)} Groups: {', '.join(groups)}."
        )
    return sorted(file.stem for file in (conf_dir / group).glob("*.yaml"))


def group_names(conf_dir: Path) -> list[str]:
    """All groups, those inside others too."""
    folders = {
        Path(place).relative_to(conf_dir).as_posix()
        for place, _, files in os.walk(conf_dir)
        if any(file.endswith(".yaml") for file in files)
    }
    return sorted(folders - {"."})


def compose_groups(root: str, choices: Sequence[str], conf_dir: Path) -> Any:
    """A root file with the chosen options of groups, as plain data of one's own.

    It is most of the time that a composition takes, and the arms and trials of a study differ in
    values far more often than in groups: so what was composed before is kept while no file changes.

    Raises:
        ConfigError: Hydra refuses.
    """
    # A new or deleted file changes its folder.
    changed = max((place.stat().st_mtime_ns for place in conf_dir.rglob("*")), default=0)
    return deepcopy(_composed(root, tuple(choices), conf_dir.resolve(), changed))


@lru_cache(maxsize=256)
def _composed(root: str, choices: tuple[str, ...], conf_dir: Path, changed: int) -> Any:
    try:
        with initialize_config_dir(config_dir=str(conf_dir), version_base="1.3"):
            return OmegaConf.to_container(hydra_compose(root, overrides=list(choices)))
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        reason = str(error).partition("\nTo append")[0]  # Hydra's advice is what we refuse
        raise ConfigError(f"{' '.join(choices) or conf_dir}: cannot compose: {reason}") from error
