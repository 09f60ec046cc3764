"""Reading a sweep file, and changing it by the overrides of the command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError  # type: ignore[import-untyped]

from hmoe.config import CONF, compose, explain, group_names, keys, parse
from hmoe.errors import ConfigError, nearest
from hmoe.study.sections import dotted_keys, meant
from hmoe.study.spec import Sweep

_PACKAGE = Path(__file__).parents[1]
SWEEPS = _PACKAGE / "sweeps" if (_PACKAGE / "sweeps").is_dir() else _PACKAGE.parent / "sweeps"


def load_sweep(name: str, overrides: Sequence[str] = (), *, folder: Path = SWEEPS) -> Sweep:
    """Read `folder/name.yaml` and change it by the overrides of the command line.

    Keys of the sweep file (`workers=2`, `budget.trials=5`) change the sweep; all others
    (`data=digits`) are added to the overrides common to all arms.
    """
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in names:
        stem = Path(name).stem  # of one who writes the path of the file
        hint = f" Write sweep={stem}." if stem in names else nearest(name, names)
        raise ConfigError(
            f"sweep={name}: no such file in {folder}.{hint} Sweeps: {', '.join(names)}."
        )
    # A section that may be missing is there, so that `search.sampler=random` finds it.
    content = {"name": name, "search": {}, **_read(folder / f"{name}.yaml")}
    _check_branches(_sweep(name, content))
    for override in overrides:
        parsed = _parse(override)
        *parents, last = parsed.key_or_group.split(".")
        if (parents or [last])[0] not in Sweep.model_fields:
            _check_key(override, parsed.key_or_group)
            content["overrides"] = [*content.get("overrides", []), override]
            continue
        node = content
        for part in parents:
            inner = [key for key, value in node.items() if isinstance(value, dict)]
            if part not in inner:
                raise ConfigError(
                    f"{override}: the sweep has no keys under '{part}'.{nearest(part, inner)}"
                )
            node[part] = node = dict(node[part])
        node[last] = parsed.value()
    return _sweep(name, content)


def _parse(override: str) -> Override:
    try:
        return parse(override)
    except ConfigError as error:
        if not override.startswith("space="):
            raise
        raise ConfigError(
            f"{error}. On the command line each line of `space` is quoted, and so is all of it: "
            "\"space=['optim.lr=tag(log,interval(1e-3,1e-2))']\""
        ) from error


def _check_key(override: str, key: str) -> None:
    """Refuse a key that is neither of the sweep file nor of the configuration of its arms.

    Here, since the arms would only say that they have no such key.
    """
    top = [*group_names(CONF), *keys(compose([]))]
    if key.partition(".")[0] not in top:
        own = dotted_keys(Sweep)
        raise ConfigError(
            f"{override}: no such key.{meant(key, [*own, *top])} Keys of the sweep: "
            f"{', '.join(own)}. All others are those of `hmoe train`."
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(file))
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: a mapping is expected")
    question = f"# {content.get('question')}"
    first_line = file.read_text(encoding="utf-8").partition("\n")[0]
    if "question" in content and first_line != question:
        raise ConfigError(f"{file}: the first line must be the question: {question}")
    return content


def _sweep(name: str, content: Mapping[str, Any]) -> Sweep:
    try:
        return Sweep.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(f"sweep {name}: {line}" for line in explain(error))) from error


def _check_branches(sweep: Sweep) -> None:
    """Refuse a branch that no arm can enter: it would be ignored without a word."""
    arms = [sweep.searched.reachable(sweep.settings(arm)) for arm in sweep.arms]
    entered = [branch for arm in arms for branch in arm.branches]
    for branch in sweep.searched.branches:
        if branch not in entered:
            raise ConfigError(
                f"sweep {sweep.name}: when.{branch.key}={branch.value}: holds in no arm; the value"
                " must be among the overrides of an arm or the choices of `space`"
            )
