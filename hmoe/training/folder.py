"""The folder of a run: made, held by one process at a time, and never shared by two settings."""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hmoe.config import literal, to_yaml
from hmoe.errors import ConfigError
from hmoe.files import write_atomically

CONFIG = "config.yaml"
# Where a run is kept, and on how many cores, does not change what it is.
_NOT_SETTINGS = {"runs", "name", "trainer.threads"}
# A child whose parent was killed ends by itself; the next one may be here before it is gone.
_PATIENCE_S = 10


@contextmanager
def run_folder(cfg: DictConfig, run: Path) -> Iterator[None]:
    """Make the folder of a run, or go on with it, and hold it for this process.

    Raises:
        ConfigError: it cannot be written, another process trains in it, or it holds a run with
            other settings.
    """
    busy = "another process trains there. Wait for it, or choose another name."
    with held(run, f"name = {run.name}", busy, patience_s=_PATIENCE_S):
        if changes := changed_settings(run, cfg):
            raise ConfigError(
                f"name = {run.name}: the run in {run} was started with other settings:\n  "
                + "\n  ".join(changes)
                + "\nChoose another name, or delete that folder."
            )
        write_atomically(run / CONFIG, to_yaml(cfg))
        yield


@contextmanager
def held(folder: Path, what: str, busy: str, *, patience_s: float = 0) -> Iterator[None]:
    """Make a folder and hold it; the system lets go of it however this process ends.

    Args:
        folder: the folder.
        what: argument = value, for messages.
        busy: what to say and to advise when another process holds it.
        patience_s: seconds to wait for that process to end.

    Raises:
        ConfigError: it cannot be written, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "owner").open("a+")
    except OSError as error:
        raise ConfigError(
            f"runs: the folder {folder} cannot be written ({error.strerror}). Choose another "
            "with runs=<folder>."
        ) from error
    with file:
        deadline = time.monotonic() + patience_s
        while not _taken(file.fileno()):
            if time.monotonic() > deadline:
                file.seek(0)
                owner = file.read().strip()
                raise ConfigError(f"{what}: {folder} is in use by process {owner}: {busy}")
            time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def changed_settings(run: Path, cfg: DictConfig) -> list[str]:
    """The settings in which the run of a folder differs from `cfg`; none for a new folder."""
    if not (run / CONFIG).exists():
        return []
    before = dict(_leaves("", OmegaConf.to_container(OmegaConf.load(run / CONFIG))))
    after = dict(_leaves("", OmegaConf.to_container(OmegaConf.create(to_yaml(cfg)))))
    return [
        f"{key}: {_word(key, before)} -> {_word(key, after)}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key) and key not in _NOT_SETTINGS
    ]


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _leaves(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), value)
    else:
        yield path, node


def _word(key: str, leaves: Mapping[str, Any]) -> str:
    return literal(leaves[key]) if key in leaves else "(absent)"
