"""Tree specifications: lists of branching factors and named units, checked, then read by level."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hmoe.errors import ConfigError

_NAME = re.compile(r"[a-z0-9_]+")


def children(unit: Any, num_units: int) -> list[tuple[str | None, int, Any]]:
    """Children of each of `num_units` equal units in a row: (name, nodes in a row, their unit)."""
    if unit is None:
        return []
    if isinstance(unit, Mapping):
        # Only one unit has these names: a mapping is never below a list.
        return [(name, 1, child) for name, child in unit.items()]
    return [(None, num_units * unit[0], unit[1:] or None)]


def checked(unit: Any, where: str) -> Any:
    """A unit as a mapping of units or a list of sizes, None for an expert; refused if wrong."""
    if isinstance(unit, Mapping):
        for name in unit:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                hint = re.sub(r"[^a-z0-9_]+", "_", str(name).lower())
                raise ConfigError(
                    f"{where} has a unit named {name!r}: names are made of a-z, 0-9 and _. "
                    f"Did you mean '{hint}'?"
                )
        result: Any = {name: checked(child, f"{where}.{name}") for name, child in unit.items()}
        num_children = [len(result)]
    elif isinstance(unit, Sequence) and not isinstance(unit, str):
        for i, size in enumerate(unit):
            _check_size(size, f"{where}[{i}]")
        result = num_children = list(unit) or [0]
        # The first unit of the level with one child; a list of names from the root is its path.
        where += ".0" * (result.index(1) if 1 in result else 0)
    else:
        _check_size(unit, where)
        return None if unit == 1 else [unit]
    if 0 in num_children:
        raise ConfigError(f"{where} is empty: a unit needs at least two children.")
    if 1 in num_children:
        raise ConfigError(
            f"{where} has one child: a gate with one choice decides nothing. Give the unit at "
            "least two children, or (among named units) write 1 for a single expert."
        )
    return result


def _check_size(size: Any, where: str) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError(f"{where} = {size!r}: a size is a whole number of at least 1.")


def text(spec: Any) -> str:
    """A specification in short, "4x4", or JSON for a named tree."""
    if isinstance(spec, Mapping):
        return json.dumps(_plain(spec))
    return "x".join(str(size) for size in spec)


def _plain(unit: Any) -> Any:
    """Mappings and sequences of any library as dict and list, for JSON."""
    if isinstance(unit, Mapping):
        return {str(name): _plain(child) for name, child in unit.items()}
    return list(unit) if isinstance(unit, Sequence) else unit
