"""Whether a run can be repeated here: what it rested on, beside what is at hand now."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hmoe.config import build, compose, digest, literal
from hmoe.errors import ConfigError, HmoeError
from hmoe.training.child import RESULT
from hmoe.training.folder import CONFIG, changed_settings
from hmoe.training.train import provenance

_NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Check:
    """One thing that a run rested on: what it was then and is now, and whether that is the same."""

    name: str
    then: str
    now: str
    same: bool


def check_run(folder: Path) -> tuple[str, list[Check]]:
    """The command that repeats a run, and commit, uncommitted changes, lock, data and settings.

    A digest that either side lacks is not the same, and neither are uncommitted changes, whether
    there were some then or there are some now: nobody knows what they are.

    Raises:
        ConfigError: the folder holds no run that came to an end.
    """
    if not (folder / RESULT).exists():
        raise ConfigError(
            f"RUN = {folder}: holds no {RESULT}; only a run that came to an end tells what it "
            "rested on."
        )
    then = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    _, command, *overrides = shlex.split(then["command"])
    now = provenance()
    return then["command"], [
        _check("commit", then["git_commit"], now["git_commit"]),
        Check(
            "uncommitted changes",
            _yes(then["git_dirty"]),
            _yes(now["git_dirty"]),
            then["git_dirty"] is False and now["git_dirty"] is False,
        ),
        _check("lock", then.get("lock_digest"), now["lock_digest"]),
        *_what_it_trains(folder, then, command, overrides),
    ]


def _what_it_trains(
    folder: Path, then: dict[str, Any], command: str, overrides: Sequence[str]
) -> list[Check]:
    """Data and settings as the command gives them now, or why it gives none."""
    before = OmegaConf.load(folder / CONFIG)
    threads = OmegaConf.select(before, "trainer.threads")
    # A sweep shares the cores among its trials, which their commands do not say.
    same_cores = [] if threads is None else [f"trainer.threads={literal(threads)}"]
    try:
        cfg = compose([*overrides, *same_cores], root="em" if command == "em" else "config")
    except ConfigError as error:
        refused = f"refused: {error}"
        return [
            Check("data", then["data_digest"], refused, False),
            Check("settings", then["config_digest"], refused, False),
        ]
    data = Check("data", then["data_digest"], *_data_now(cfg, then["data_digest"]))
    settings = _check("settings", then["config_digest"], digest(cfg))
    if not settings.same:
        changed = "; ".join(changed_settings(folder, cfg))
        settings = Check(settings.name, settings.then, f"{settings.now} ({changed})", False)
    return [data, settings]


def _data_now(cfg: DictConfig, then: str) -> tuple[str, bool]:
    try:
        data = build(cfg.data)
        data.setup()
    except (HmoeError, OSError) as error:
        return f"cannot be read: {error}", False
    return data.digest, data.digest == then


def _check(name: str, then: str | None, now: str | None) -> Check:
    return Check(name, then or _NOT_KNOWN, now or _NOT_KNOWN, then is not None and then == now)


def _yes(dirty: bool | None) -> str:
    return {None: _NOT_KNOWN, True: "yes", False: "no"}[dirty]
