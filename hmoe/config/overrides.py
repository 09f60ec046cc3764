"""Overrides to a config: Hydra composes groups, hmoe puts in values and refuses all else."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hmoe.config.grammar import check_options, key_of, parse, text_of
from hmoe.config.groups import CONF, compose_groups, group_names, options
from hmoe.config.rows import EXPERIMENT, SYSTEM, expand, named
from hmoe.config.targets import SPECIAL, refuse_foreign
from hmoe.config.text import join
from hmoe.errors import ConfigError, nearest

# Parts of the mixture: a model that reads one refers to it, `${gate}`. What `balance` looks at are
# the decisions of a selection, so a model reads both or neither.
_MIXTURE = {
    part: part for part in ("tree", "gate", "selection", "eval_selection", "experts", "shared")
} | {"balance": "selection"}


def compose(overrides: Sequence[str], *, root: str = "config", conf_dir: Path = CONF) -> DictConfig:
    """Compose a root file with overrides; the later of two overrides of one key wins.

    The config may hold interpolations. Not for several threads at once: Hydra has one state.
    """
    groups = group_names(conf_dir)
    rows = [o for o in overrides if o.startswith((f"{SYSTEM}=", f"{EXPERIMENT}="))]
    if rows and root != "config":
        raise ConfigError(
            f"{rows[0]}: systems and experiments are choices of `hmoe train`; conf/{root}.yaml has "
            "no such parts"
        )
    parsed = [parse(override) for override in expand(overrides, conf_dir=conf_dir)]
    chosen = [override for override in parsed if override.key_or_group in groups]
    for override in chosen:
        check_options(override, options(override.key_or_group, conf_dir))
    choices = [f"{key_of(override)}={text_of(override)}" for override in chosen]
    config = compose_groups(root, choices, conf_dir)
    for override in parsed:
        if override.key_or_group not in groups:
            _replace(config, override, groups)
    _refuse_unread(config, parsed)
    for key in (SYSTEM, EXPERIMENT) if rows else ():
        config[key] = named(overrides, key, conf_dir=conf_dir)
    refuse_foreign(config)
    try:
        composed: DictConfig = OmegaConf.create(config)
    except OmegaConfBaseException as error:  # a malformed interpolation, an odd key in a mapping
        raise ConfigError(f"{' '.join(overrides)}: cannot compose: {error}") from error
    OmegaConf.set_struct(composed, True)
    return composed


def that_are_read(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Of some overrides those of parts that the model reads, and those of no part of a mixture.

    A sweep draws for all its arms alike; an arm without a gate has no use for what gates draw.
    """
    read = _read_by_model(OmegaConf.to_container(cfg))
    part_of = {override: _part(parse(override)) for override in overrides}
    return [o for o, part in part_of.items() if _MIXTURE.get(part, "model") in read]


def keys(cfg: DictConfig) -> list[str]:
    """Every key of a config in dotted form, inner nodes too, `_target_` and its like aside."""
    return list(_keys("", OmegaConf.to_container(cfg)))


def _refuse_unread(config: Any, parsed: Sequence[Override]) -> None:
    """Refuse an override of a part that the model does not read; "none" of it does no harm.

    Defaults of the root file pass: nobody asked for them. So does what comes before the choice of
    the model: the settings that all arms of a sweep share are there for those that read them.
    """
    if "model" not in config:
        return
    read = _read_by_model(config)
    chosen = [n for n, o in enumerate(parsed) if key_of(o) in ("model", "ffn@model.ffn")]
    later = parsed[max(chosen, default=-1) + 1 :]
    for key, override in {key_of(override): override for override in later}.items():
        part = _part(override)
        if part not in _MIXTURE or _MIXTURE[part] in read:
            continue
        if key in _MIXTURE and override.value() == "none":
            continue
        reads = ", ".join(name for name in _MIXTURE if _MIXTURE[name] in read)
        raise ConfigError(
            f"{override.input_line}: would be ignored, since this model reads no {part}, only "
            f"{reads or 'itself'}. Leave it out, or use another model, such as model=mlp, or "
            "another ffn@model.ffn."
        )


def _part(override: Override) -> str:
    return str(override.package or override.key_or_group).partition(".")[0]


def _read_by_model(config: Any) -> set[str]:
    """The keys of the root that the model refers to, directly or through others."""
    read, new = {"model"}, ["model"]
    while new:
        found = {name for name in _references(config[new.pop()]) if name in config} - read
        read |= found
        new += found
    return read


def _references(node: Any) -> set[str]:
    """Words inside the interpolations of plain data, the names of keys among them."""
    if isinstance(node, dict):
        return {word for value in node.values() for word in _references(value)}
    if isinstance(node, list):
        return {word for value in node for word in _references(value)}
    return set(re.findall(r"\w+", node)) if isinstance(node, str) and "${" in node else set()


def _replace(config: Any, override: Override, groups: Sequence[str]) -> None:
    """Put the value where the key points, in place of whatever is there."""
    *parents, last = key_of(override).split(".")
    node = config
    for part in parents:
        node = node[_step(config, node, part, override, groups)]
    node[_step(config, node, last, override, groups)] = override.value()


def _step(config: Any, node: Any, part: str, override: Override, groups: Sequence[str]) -> Any:
    """The key or index of `node` that is written `part`."""
    if isinstance(node, dict):
        for key in node:
            if str(key) == part:
                return key
    if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
        return int(part)
    known = list(_keys("", config))
    name = key_of(override)
    # `lr` is meant as `optim.lr`, though the two spellings are far apart.
    ends = [key for key in known if key.endswith(f".{name}")]
    hint = f" Did you mean '{ends[0]}'?" if ends else nearest(name, [*known, *groups])
    allowed = ""
    if node is config:
        top = [key for key in known if "." not in key and key not in groups]
        allowed = f" Groups: {', '.join(groups)}. Keys: {', '.join(top)}."
    elif isinstance(node, dict):
        allowed = f" Allowed there: {', '.join(str(key) for key in node if key not in SPECIAL)}."
    raise ConfigError(f"{override.input_line}: no such key.{hint}{allowed}")


def _keys(path: str, node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key not in SPECIAL:
                yield join(path, key)
                yield from _keys(join(path, key), value)
