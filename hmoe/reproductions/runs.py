"""Runs of `hmoe train` as cells of a reproduction."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hmoe.reproductions.record import Place


def trained(overrides: Sequence[str], place: Place) -> dict[str, Any]:
    """Train a run in the cell's folder, on from its last checkpoint; what its result.json holds.

    Args:
        overrides: as on the command line; the threads and the folder are set here.
        place: of the cell.
    """
    import json
    import shlex

    from hmoe.config import compose
    from hmoe.training import train

    run = place.folder / "run"
    result = run / "result.json"
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found
    threads = ["trainer.threads=1"] if place.size == "cpu" else []
    words = [*overrides, *threads]
    command = shlex.join(["hmoe", "train", *words])
    return train(compose(words), run, command=command, progress=False)


def set_root(place: Place, name: str) -> str:
    """The override that points the data at a known set."""
    return f"data.root={Path(place.root) / name}"
