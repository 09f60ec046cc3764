"""Children: a run trains in a process of its own, started from a server with the imports loaded.

Whoever starts a child watches it, tells its outcome and talks to stores; the child only trains and
writes files. It ignores Ctrl-C, which the parent answers, and ends when nobody watches it any more:
when its parent is gone, or the server, through which the parent sees how it ends.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from hmoe.errors import HmoeError
from hmoe.files import write_atomically
from hmoe.training.process import keep_memory

FAILURE = "failure.json"
RESULT = "result.json"
_UNTIL_GONE_S = 0.5
_THREADS = "OMP_NUM_THREADS"
_GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Child:
    """A run in a process of its own.

    Args:
        cfg: the composed configuration as a plain container.
        run: the run folder.
        command: the shell command that repeats this run.
    """

    def __init__(self, *, cfg: dict[str, Any], run: Path, command: str) -> None:
        (run / FAILURE).unlink(missing_ok=True)
        context = start_server(cfg["trainer"]["threads"])
        self.process = context.Process(target=_main, args=(cfg, run, command), daemon=True)
        try:
            self.process.start()
        except (ConnectionError, EOFError):
            # The server was killed, a moment ago: it answers no more, but still counts as running.
            time.sleep(_UNTIL_GONE_S)
            start_server(cfg["trainer"]["threads"])
            self.process.start()

    def running(self) -> bool:
        """Whether the process is still there."""
        return self.process.is_alive()

    @staticmethod
    def wait_for_one(children: "Sequence[Child]", seconds: float) -> None:
        """Return when one of some processes has ended, or after so long."""
        wait([child.process.sentinel for child in children], timeout=seconds)

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
            result = json.loads((run / RESULT).read_text(encoding="utf-8"))
            return result["state"], result["reason"]
        if (run / FAILURE).exists():
            return "failed", json.loads((run / FAILURE).read_text(encoding="utf-8"))["message"]
        status = child.process.exitcode if child else None
        return "killed", f"its process was lost (exit status {status})"


def start_server(threads: int | None) -> ForkServerContext:
    """Start the server that children are forked from, unless it runs, and do not wait for it.

    It loads the imports once, some seconds; every child then starts at once.

    Args:
        threads: CPU threads of a child, by which libraries make their pools; None is their choice.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hmoe.training", "sklearn.datasets"])
    # A signal to the whole group is the parent's to answer. The server inherits that it is ignored.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _GROUP_SIGNALS}
    environment = dict(os.environ)
    try:
        if threads is not None:
            os.environ[_THREADS] = str(threads)
        forkserver.ensure_running()
    finally:
        os.environ.pop(_THREADS, None)
        os.environ.update(environment)
        for number, handler in before.items():
            signal.signal(number, handler)
    return context


def write_failure(run: Path, error: Exception) -> None:
    """Note in the run folder why a run failed."""
    message = str(error) if isinstance(error, HmoeError) else f"{type(error).__name__}: {error}"
    run.mkdir(parents=True, exist_ok=True)
    write_atomically(run / FAILURE, json.dumps({"message": message}))


def _main(cfg: dict[str, Any], run: Path, command: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run.mkdir(parents=True, exist_ok=True)
        log = os.open(run / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, sys.stderr.fileno())
        os.dup2(log, sys.stdout.fileno())
        from hmoe.training.train import train

        keep_memory()
        train(OmegaConf.create(cfg), run, command=command, progress=False)
    except Exception as error:
        traceback.print_exc()
        write_failure(run, error)
        sys.exit(1)


def _end_with_parent() -> None:
    parent, server = multiprocessing.parent_process(), os.getppid()
    assert parent is not None, "only a child runs this"
    while not wait([parent.sentinel], timeout=1.0) and os.getppid() == server:
        pass
    os._exit(1)
