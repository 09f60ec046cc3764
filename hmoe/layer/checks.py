"""Checks of options that a gate or a selection may have once a level."""

from collections.abc import Sequence
from typing import Any

from hmoe.errors import ConfigError


def per_level(name: str, value: Any, levels: int) -> list[Any]:
    """One value for all levels, or one a level, as one a level.

    Raises:
        ConfigError: a list of the wrong length.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * levels
    if len(value) != levels:
        raise ConfigError(
            f"{name} = {list(value)}: {len(value)} given, {levels} expected, one a level "
            "(or one for all)."
        )
    return list(value)


def check_count(name: str, value: int, limit: int, what: str) -> None:
    """Refuse a number below 1 or above how many there are."""
    if not 1 <= value <= limit:
        raise ConfigError(f"{name} = {value}: must be from 1 to {limit}, the number of {what}.")


def check_temperatures(temperatures: Sequence[float]) -> None:
    """Refuse what raw scores cannot be divided by."""
    for temperature in temperatures:
        if temperature <= 0:
            raise ConfigError(f"gate.temperature = {temperature}: must be positive.")
