"""EventLog: a Lightning logger that appends lines to a file. Training talks to nobody else."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger


class EventLog(Logger):
    """Append {"step", "time", "metrics"} to `events.jsonl`, one line a call."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        path.touch()
        _drop_torn_line(path)
        self._path = path
        self._last: tuple[int, float] | None = None

    @property
    def name(self) -> str:
        return "events"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The resolved configuration is a file of its own; nothing to do."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line; training lines also get the steps per second since the last one."""
        now = time.time()
        assert step is not None
        metrics = dict(metrics)
        if "train/loss" in metrics and self._last is not None and now > self._last[1]:
            metrics["time/steps_per_s"] = (step - self._last[0]) / (now - self._last[1])
        # A line after a validation starts the clock anew: only training is counted.
        self._last = (step, now)
        line = json.dumps({"step": step, "time": now, "metrics": metrics})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _drop_torn_line(path: Path) -> None:
    """Take away what a kill left of a last line, so that the next line is one of its own."""
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
