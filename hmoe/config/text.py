"""A config as text: values in messages, the identity of a variant, the YAML kept with a run."""

import hashlib
import json
import re
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hmoe.errors import ConfigError

REDACTED = "REDACTED"
_PLAIN = re.compile(r"[A-Za-z0-9_/+.$%*@?|-]+")
_NOT_TEXT = re.compile(
    r"null|true|false|[+-]?(inf|nan|[\d._]*\d[\d._]*(e[+-]?[\d_]+)?)", re.IGNORECASE
)
_KEY, _ESCAPED = re.compile(r"[\\()\[\]{}:=, \t]"), r"\\\g<0>"
_NOT_IDENTITY = {"seed": 0, "name": None, "runs": "", "system": None}


def digest(cfg: DictConfig) -> str:
    """Identity of a variant: sha256 (hex) of the resolved config, seed, name, runs and
    the name of the system aside.

    `${seed}` elsewhere in the config does not count either, so all seeds of a variant share one
    digest; for that the config must still hold its interpolations, as `compose` returns it.
    """
    config: Any = OmegaConf.to_container(cfg)
    config = resolved(_redacted({**config, **_NOT_IDENTITY}))
    variant = {key: value for key, value in config.items() if key not in _NOT_IDENTITY}
    # Keys keep their order: the departments of a tree are numbered in it.
    return hashlib.sha256(json.dumps(variant, default=str).encode()).hexdigest()


def to_yaml(cfg: DictConfig) -> str:
    """The resolved config as YAML, with every value that reads the environment redacted."""
    return OmegaConf.to_yaml(OmegaConf.create(resolved(_redacted(OmegaConf.to_container(cfg)))))


def literal(value: Any) -> str:
    """A value as one writes it in an override; Hydra reads the same value back from it.

    Keys of mappings are taken to be plain names.
    """
    if isinstance(value, dict):
        return (
            "{" + ",".join(f"{_KEY.sub(_ESCAPED, str(k))}:{literal(value[k])}" for k in value) + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(literal, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and not _NOT_TEXT.fullmatch(text):
        return text
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def join(path: str, key: object) -> str:
    """The dotted key of `key` below `path`."""
    return f"{path}.{key}" if path else str(key)


def resolved(config: Any) -> Any:
    """Plain data from a config or a part of one, with its interpolations filled in."""
    try:
        node = config if OmegaConf.is_config(config) else OmegaConf.create(config)
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError(f"{key}{str(error).splitlines()[0]}") from error


def _redacted(node: Any) -> Any:
    """Hide environment variables before resolving, so that values pointing at them are hidden."""
    if isinstance(node, dict):
        return {key: _redacted(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_redacted(value) for value in node]
    secret = isinstance(node, str) and re.search(r"\$\{\s*oc\.env\b", node)
    return REDACTED if secret else node
