"""What hmoe says when it is given something it cannot work with.

The command line prints an `HmoeError` as one message and exits with status 2; any other
exception that reaches the user is a defect of hmoe.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class HmoeError(Exception):
    """A mistake in what hmoe was given, told so that it can be mended."""


class ConfigError(HmoeError, ValueError):
    """A setting that is unknown, of the wrong type, out of range, or at odds with another."""


class DataError(HmoeError):
    """A data file that is missing, truncated or not what its name says."""


def check_names(setting: str, values: Iterable[object], allowed: Iterable[str]) -> None:
    """Raise ConfigError if a value of a setting is none of the allowed names."""
    names = list(allowed)
    for value in values:
        if value not in names:
            near = nearest(str(value), names)
            raise ConfigError(f"{setting} = {value}: must be one of {', '.join(names)}.{near}")


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the allowed name closest to `name`, or ""."""
    matches = get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""
