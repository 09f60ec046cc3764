"""What the words of a command name: runs, and values that are no configuration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hmoe.config import plain_values
from hmoe.errors import ConfigError

if TYPE_CHECKING:
    from hmoe.tracking import Run


def check_folders(options: Mapping[str, Any], *names: str) -> None:
    """Raise ConfigError unless these options are text, as a path is."""
    for name in names:
        if not isinstance(options[name], str):
            raise ConfigError(f"{name} = {options[name]}: expected a folder.")


def run_named(runs: Path, name: str) -> tuple[Path, "Run | None"]:
    """The folder of a run, and the run where it was tracked, of a folder, a name or an id."""
    from hmoe.tracking import find_run, run_folder_of, run_in

    if Path(name).is_dir():
        return Path(name), run_in(runs, Path(name))
    run = find_run(runs, name)
    return run_folder_of(runs, run), run


def names_in(
    words: Sequence[str], wanted: Sequence[str], known: Mapping[str, Any] = MappingProxyType({})
) -> tuple[list[str], dict[str, Any]]:
    """The names among the words, as many as wanted, and the options, the runs folder with them."""
    names = [word for word in words if "=" not in word]
    if len(names) != len(wanted):
        raise ConfigError(
            f"{' '.join(wanted)}: {len(names)} names given, {len(wanted)} expected: runs by name, "
            "id or folder, or arms as study/arm."
        )
    return names, plain_values([word for word in words if "=" in word], {"runs": "runs", **known})
