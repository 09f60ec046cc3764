"""Checks of the arguments of data modules, and the one form that every data error takes."""

from pathlib import Path

from hmoe.errors import ConfigError, DataError


def check_at_least(name: str, value: int, minimum: int) -> None:
    """Raise ConfigError unless `value` is at least `minimum`."""
    if value < minimum:
        raise ConfigError(f"data.{name}={value}: must be at least {minimum}.")


def check_seed(value: int) -> None:
    """Raise ConfigError unless `value` is in [0, 2**32), which numpy seeds without loss."""
    if not 0 <= value < 2**32:
        raise ConfigError(f"data.seed={value}: must be from 0 to {2**32 - 1}.")


def check_shares(**shares: float) -> None:
    """Raise ConfigError unless every share is in (0, 1) and their sum leaves some for training."""
    for name, value in shares.items():
        if not 0 < value < 1:
            raise ConfigError(f"data.{name}={value}: must be more than 0 and less than 1.")
    if sum(shares.values()) >= 1:
        given = " ".join(f"data.{name}={value}" for name, value in shares.items())
        raise ConfigError(f"{given}: the sum must be less than 1, the rest is for training.")


def check_root(value: str | None, wanted: str) -> Path:
    """Return `value` as a path; raise ConfigError if it was not given, DataError if not there."""
    if value is None:
        raise ConfigError(f"data.root=null: must name {wanted}, as in data.root=/path/to/data.")
    root = Path(value).expanduser()
    if not root.exists():
        remedy = "Give an existing path with data.root=; nothing is fetched."
        raise data_error(root, wanted, "nothing there", remedy)
    return root


def data_error(path: Path, expected: str, found: str, remedy: str) -> DataError:
    """Make the DataError that says which file, what was expected and found, and what to do."""
    return DataError(f"{path}: expected {expected}, found {found}. {remedy}")
