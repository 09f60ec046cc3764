"""Make the objects a config describes, by Hydra's conventions and inside hmoe only."""

import functools
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig

from hmoe.config.targets import MISSING, SPECIAL, locate
from hmoe.config.text import join, resolved
from hmoe.errors import ConfigError, HmoeError


def build(node: Any, **kwargs: Any) -> Any:
    """Make the object a node describes; `kwargs` are added to its arguments and win over them.

    As in Hydra, inner nodes are built first unless the node says `_recursive_: false`,
    `_partial_: true` gives a `functools.partial`, and null gives None. Constructors get plain lists
    and dicts. An `HmoeError` from a constructor keeps its class and gains the key of the node; a
    ValueError or TypeError becomes a `ConfigError`; anything else passes as it is.
    """
    if isinstance(node, DictConfig | ListConfig):
        return _make(node._get_full_key(None), resolved(node), kwargs)
    return _make("", node, kwargs)


def _make(path: str, node: Any, extra: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_make(join(path, index), item, {}) for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {key: _make(join(path, key), value, {}) for key, value in node.items()}
    target = locate(path, node["_target_"])
    partial = node.get("_partial_", False)
    arguments = {
        key: _make(join(path, key), value, {}) if node.get("_recursive_", True) else value
        for key, value in node.items()
        if key not in SPECIAL and key not in extra and not (partial and value == MISSING)
    } | dict(extra)
    if partial:
        return functools.partial(target, **arguments)
    try:
        return target(**arguments)
    except HmoeError as error:
        raise type(error)(f"{path or node['_target_']}: {error}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path or 'node'} ({node['_target_']}): {error}") from error
