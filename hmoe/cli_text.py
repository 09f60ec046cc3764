"""`hmoe fetch`: published files, brought here when asked.

Heavy libraries are imported inside the commands, as in `hmoe.cli`.
"""

from collections.abc import Sequence
from pathlib import Path

from hmoe.config import plain_values
from hmoe.errors import ConfigError, nearest


def fetch(words: Sequence[str]) -> int:
    """Download a published data set, compared with its digests, into root/NAME."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from hmoe.data import KNOWN_SETS
    from hmoe.data.fetching import fetch as fetch_set

    names = [word for word in words if "=" not in word]
    options = plain_values([word for word in words if "=" in word], {"root": "data"})
    there_are = f"There are {', '.join(sorted(KNOWN_SETS))}."
    if len(names) != 1:
        raise ConfigError(f"NAME: {len(names)} names given, 1 expected. {there_are}")
    (name,) = names
    if name not in KNOWN_SETS:
        raise ConfigError(f"{name}: no such set.{nearest(name, KNOWN_SETS)} {there_are}")
    known = KNOWN_SETS[name]
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("")

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        paths = fetch_set(known, Path(options["root"]) / name, show=show)
    print(f"{name}: {known.title}")
    print(f"source: {known.source}")
    print(f"licence: {known.licence}")
    for path in paths:
        print(path)
    return 0
