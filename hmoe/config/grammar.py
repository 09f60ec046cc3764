"""The grammar of overrides, Hydra's, without what a single run cannot mean."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
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

from hmoe.config.text import literal
from hmoe.errors import ConfigError, nearest


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
    if not text_of(parsed).strip():
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


def key_of(override: Override) -> str:
    """What an override sets: names joined by dots, a group, or group@place."""
    place = f"@{override.package}" if override.package else ""
    return f"{override.key_or_group}{place}"


def text_of(override: Override) -> str:
    """The value as it was written."""
    return str(override.input_line).partition("=")[2]


def has_sweep(value: Any) -> bool:
    """Whether Hydra would search this value, as a whole or somewhere inside."""
    if isinstance(value, dict):
        return any(has_sweep(item) for item in value.values())
    if isinstance(value, list):
        return any(has_sweep(item) for item in value)
    return isinstance(value, Sweep | Glob)


def check_options(override: Override, allowed: Sequence[str]) -> None:
    """Raise ConfigError unless the override picks options that a group has."""
    value = override.value()
    for option in map(literal, value if isinstance(value, list) else [value]):
        if option not in allowed:
            raise ConfigError(
                f"{override.input_line}: no such option of the group '{override.key_or_group}'."
                f"{nearest(option, allowed)} Options: {', '.join(allowed)}."
            )


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
