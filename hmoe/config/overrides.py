"""Overrides to a config: Hydra composes groups, hmoe puts in values and refuses all else."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from antlr4 import (  # type: ignore[import-untyped]
    CommonTokenStream,
    InputStream,
    ParseTreeWalker,
)
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Sweep
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import OverrideLexer
from hydra.grammar.gen.OverrideParser import OverrideParser
from hydra.grammar.gen.OverrideParserListener import OverrideParserListener
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hmoe.config.groups import CONF, compose_groups, group_names, options
from hmoe.config.systems import read_system
from hmoe.config.targets import SPECIAL, refuse_foreign
from hmoe.config.text import join, literal
from hmoe.errors import ConfigError, nearest

SYSTEM = "system"
# Parts of the mixture: a model that reads one refers to it, `${gate}`. What `balance` looks at are
# the decisions of a selection, so a model reads both or neither.
_MIXTURE = {
    part: part for part in ("tree", "gate", "selection", "eval_selection", "experts", "shared")
} | {"balance": "selection"}


@lru_cache(maxsize=4096)
def parse(override: str) -> Override:
    """Read `key=value` by Hydra's grammar; refuse what a single run cannot mean.

    A sweep reads the same few lines a thousand times, at 0.7 ms each: they are kept.
    """
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        cause = str(error).partition("\n")[0]
        raise ConfigError(
            f"{override}: does not read as key=value; check brackets and quotes ({cause})"
        ) from error
    if parsed.is_delete():
        raise ConfigError(f"{override}: nothing can be deleted; set the key to another value")
    if not parsed.key_or_group:
        raise ConfigError(f"{override}: a key is a group, or names joined by dots")
    if not _text(parsed).strip():
        raise ConfigError(f"{override}: a value is missing; write null for none, '' for no text")
    if repeated := _repeated_keys(override):
        raise ConfigError(f"{override}: '{repeated[0]}' is there twice in one mapping")
    if has_sweep(parsed.value()):
        raise ConfigError(
            f"{override}: a search belongs in a sweep: write it under `space` of a file in sweeps/"
            " (and a list as [1,2])"
        )
    return parsed


def plain_values(overrides: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Values of commands that compose no configuration; the later of two of one key wins.

    Raises:
        ConfigError: a key that is not among the defaults.
    """
    found = dict(defaults)
    for override in overrides:
        parsed = parse(override)
        if parsed.key_or_group not in defaults:
            raise ConfigError(
                f"{override}: '{parsed.key_or_group}' is not an option here; there are "
                f"{', '.join(defaults)}.{nearest(parsed.key_or_group, defaults)}"
            )
        found[parsed.key_or_group] = parsed.value()
    return found


def expand(overrides: Sequence[str], *, conf_dir: Path = CONF) -> list[str]:
    """Put in place of `system=<name>` the choices that it stands for.

    Whatever comes later wins over them: a value over a value, and the choice of a group over all
    that the system said about that group, which need not have the same settings. A later system
    replaces an earlier one altogether: what only the earlier one chose is no part of the later.
    """
    groups = group_names(conf_dir)
    given = [parse(override) for override in overrides]
    systems = [i for i, o in enumerate(given) if o.key_or_group == SYSTEM and SYSTEM in groups]
    expanded: list[str] = []
    for index, override in enumerate(overrides):
        if index not in systems:
            expanded.append(override)
            continue
        parsed, later = given[index], given[index + 1 :]
        if not isinstance(parsed.value(), str):
            raise ConfigError(f"{override}: the name of one system is expected")
        _check_options(parsed, options(SYSTEM, conf_dir))
        if index != systems[-1]:
            continue
        anew = {o.package or o.key_or_group for o in later if o.key_or_group in groups}
        for choice in read_system(str(parsed.value()), conf_dir).choices:
            said = parse(choice)
            place = said.package or said.key_or_group
            # A choice inside another group stays: `ffn@model.ffn` is for every model.
            replaced = [group for group in anew if f"{place}.".startswith(f"{group}.")]
            if said.key_or_group in groups:
                replaced = [g for g in replaced if g in (place, said.key_or_group)]
            if not replaced:
                expanded.append(choice)
    return expanded


def compose(overrides: Sequence[str], *, root: str = "config", conf_dir: Path = CONF) -> DictConfig:
    """Compose a root file with overrides; the later of two overrides of one key wins.

    The config may hold interpolations. Not for several threads at once: Hydra has one state.
    """
    groups = group_names(conf_dir)
    systems = [override for override in overrides if override.startswith(f"{SYSTEM}=")]
    if systems and root != "config":
        raise ConfigError(
            f"{systems[0]}: systems are choices of `hmoe train`; conf/{root}.yaml has no such parts"
        )
    parsed = [parse(override) for override in expand(overrides, conf_dir=conf_dir)]
    chosen = [override for override in parsed if override.key_or_group in groups]
    for override in chosen:
        _check_options(override, options(override.key_or_group, conf_dir))
    choices = [f"{key_of(override)}={_text(override)}" for override in chosen]
    config = compose_groups(root, choices, conf_dir)
    for override in parsed:
        if override.key_or_group not in groups:
            _replace(config, override, groups)
    _refuse_unread(config, parsed)
    if systems:
        config[SYSTEM] = parse(systems[-1]).value()
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


def key_of(override: Override) -> str:
    """What an override sets: names joined by dots, a group, or group@place."""
    place = f"@{override.package}" if override.package else ""
    return f"{override.key_or_group}{place}"


def has_sweep(value: Any) -> bool:
    """Whether Hydra would search this value, as a whole or somewhere inside."""
    if isinstance(value, dict):
        return any(has_sweep(item) for item in value.values())
    if isinstance(value, list):
        return any(has_sweep(item) for item in value)
    return isinstance(value, Sweep | Glob)


def _repeated_keys(override: str) -> list[str]:
    """Keys that a mapping in an override has twice; Hydra keeps the last without a word."""
    repeated: list[str] = []

    class Mappings(OverrideParserListener):
        def enterDictContainer(self, ctx: OverrideParser.DictContainerContext) -> None:
            keys = [pair.dictKey().getText() for pair in ctx.dictKeyValuePair()]
            repeated.extend(key for i, key in enumerate(keys) if key in keys[:i])

    if "{" in override:
        tokens = CommonTokenStream(OverrideLexer(InputStream(override)))
        tree = OverrideParser(tokens).override()  # type: ignore[no-untyped-call]
        ParseTreeWalker.DEFAULT.walk(Mappings(), tree)
    return repeated


def _text(override: Override) -> str:
    return str(override.input_line).partition("=")[2]


def _check_options(override: Override, allowed: Sequence[str]) -> None:
    value = override.value()
    for option in map(literal, value if isinstance(value, list) else [value]):
        if option not in allowed:
            raise ConfigError(
                f"{override.input_line}: no such option of the group '{override.key_or_group}'."
                f"{nearest(option, allowed)} Options: {', '.join(allowed)}."
            )


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
