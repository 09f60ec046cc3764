"""Which code a config may name, and how it is found."""

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from hmoe.config.text import join, literal
from hmoe.errors import ConfigError, nearest

# What a node says about itself; everything else in it is an argument of its target.
SPECIAL = frozenset({"_target_", "_partial_", "_recursive_", "_convert_"})
MISSING = "???"


def targets(path: str, node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node with a `_target_` in plain data, with its dotted key, outermost first."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from targets(join(path, key), value)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from targets(join(path, index), value)


def refuse_foreign(config: Any) -> None:
    """Refuse a `_target_` outside hmoe anywhere in plain data, without importing anything."""
    for path, node in targets("", config):
        _check_name(path, node["_target_"])


def locate(path: str, target: Any) -> Callable[..., Any]:
    """Import what a target names: a class or function of hmoe, not just reached through hmoe."""
    _check_name(path, target)
    where = f"{join(path, '_target_')}={target}"
    found: Any = import_module("hmoe")
    at = "hmoe"
    for part in target.split(".")[1:]:
        if isinstance(found, ModuleType) and not hasattr(found, part):
            try:
                import_module(f"{at}.{part}")
            except ModuleNotFoundError as error:
                if error.name != f"{at}.{part}":  # a package is missing, not the target
                    raise
        if not hasattr(found, part):
            known = [name for name in dir(found) if not name.startswith("_")]
            raise ConfigError(f"{where}: '{at}' has no '{part}'.{nearest(part, known)}")
        found, at = getattr(found, part), f"{at}.{part}"
    if not callable(found) or not str(getattr(found, "__module__", None)).startswith("hmoe."):
        raise ConfigError(f"{where}: a class or function defined in hmoe is expected")
    located: Callable[..., Any] = found
    return located


def _check_name(path: str, target: Any) -> None:
    if not re.fullmatch(r"hmoe(\.[A-Za-z][A-Za-z0-9_]*)+", str(target)):
        where = f"{join(path, '_target_')}={literal(target)}"
        raise ConfigError(f"{where}: a name that starts with 'hmoe.' is expected")
