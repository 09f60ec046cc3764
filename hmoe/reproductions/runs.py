"""Runs of `hmoe train` as cells of a reproduction."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hmoe.errors import ConfigError, HmoeError
from hmoe.reproductions.record import Place


def trained(overrides: Sequence[str], place: Place) -> dict[str, Any]:
    """Train a run in the cell's folder, on from its last checkpoint; what its result.json holds.

    Args:
        overrides: as on the command line; the threads and the folder are set here.
        place: of the cell.

    Raises:
        ConfigError: the folder holds a run with other settings.
        HmoeError: the run diverged, so that it has no figures of its end.
    """
    import json
    import shlex

    from hmoe.config import compose
    from hmoe.training import changed_settings, train

    run = place.folder / "run"
    threads = ["trainer.threads=1"] if place.size == "cpu" else []
    words = [*overrides, *threads]
    cfg, stored = compose(words), run / "result.json"
    found: dict[str, Any]
    if stored.exists():
        if changes := changed_settings(run, cfg):
            raise ConfigError(
                f"{run}: a run with other settings: {'; '.join(changes)}. Delete {place.folder}."
            )
        found = json.loads(stored.read_text(encoding="utf-8"))
    else:
        found = train(cfg, run, command=shlex.join(["hmoe", "train", *words]), progress=False)
    if found["state"] != "complete":
        raise HmoeError(f"{run}: {found['state']}: {found['reason']}")
    return found


def set_root(place: Place, name: str) -> str:
    """The override that points the data at a known set."""
    return f"data.root={Path(place.root) / name}"
