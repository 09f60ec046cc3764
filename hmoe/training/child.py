"""Children: a run trains in a process of its own, started from a server with the imports loaded.

Whoever starts a child watches it, tells its outcome and talks to stores; the child only trains and
writes files. It ignores Ctrl-C, which the parent answers, and ends when its parent is gone, so that
no run is ever trained twice.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from hmoe.errors import HmoeError

FAILURE = "failure.json"
RESULT = "result.json"


class Child:
    """A run in a process of its own.

    Args:
        cfg: the composed configuration as a plain container.
        run: the run folder.
        command: the shell command that repeats this run.
        progress: let the child draw its bar on standard error; else that goes to `log.txt`.
    """

    def __init__(self, *, cfg: dict[str, Any], run: Path, command: str, progress: bool) -> None:
        self.run = run
        (run / FAILURE).unlink(missing_ok=True)
        context = multiprocessing.get_context("forkserver")
        # Preloaded once: every later child is forked from there and starts at once.
        context.set_forkserver_preload(["hmoe.training"])
        self.process = context.Process(
            target=_main, args=(cfg, run, command, progress), daemon=True
        )
        self.process.start()

    def running(self) -> bool:
        """Whether the process is still there."""
        return self.process.is_alive()

    def stop(self) -> None:
        """End the process now; the run can be gone on with from its last checkpoint."""
        self.process.kill()
        self.process.join()

    @staticmethod
    def outcome_of(run: Path, child: "Child | None") -> tuple[str, str]:
        """State and reason of an ended run: complete, diverged, failed, or killed.

        The files tell, not the exit status: a process ended by a signal may well exit with 0.
        """
        if (run / RESULT).exists():
            return json.loads((run / RESULT).read_text(encoding="utf-8"))["state"], ""
        if (run / FAILURE).exists():
            return "failed", json.loads((run / FAILURE).read_text(encoding="utf-8"))["message"]
        status = child.process.exitcode if child else None
        return "killed", f"its process was lost (exit status {status})"


def _main(cfg: dict[str, Any], run: Path, command: str, progress: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not progress:
            log = os.open(run / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, sys.stderr.fileno())
            os.dup2(log, sys.stdout.fileno())
        from hmoe.training.train import train

        train(OmegaConf.create(cfg), run, command=command, progress=progress)
    except Exception as error:
        traceback.print_exc()
        kind = "input" if isinstance(error, HmoeError) else "error"
        message = str(error) if kind == "input" else f"{type(error).__name__}: {error}"
        (run / FAILURE).write_text(json.dumps({"kind": kind, "message": message}))
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a child runs this"
    wait([parent.sentinel])
    os._exit(1)
