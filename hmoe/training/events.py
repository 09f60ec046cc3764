"""EventLog: a Lightning logger that appends lines to a file. Training talks to nobody else."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger


class EventLog(Logger):
    """Append {"step", "time", "metrics"} to `events.jsonl`, one flushed line a call."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("a", encoding="utf-8")
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
        if "train/loss" in metrics:
            if self._last is not None and now > self._last[1]:
                metrics["time/steps_per_s"] = (step - self._last[0]) / (now - self._last[1])
            self._last = (step, now)
        line = json.dumps({"step": step, "time": now, "metrics": metrics})
        self._file.write(line + "\n")
        self._file.flush()

    def finalize(self, status: str) -> None:
        self._file.flush()
